"""Vocabularies: order is identity."""

from __future__ import annotations

from pathlib import Path

import pytest

from nc_medfl.errors import UserError
from nc_medfl.labels import Vocabulary, load_vocabulary


def test_nih14_has_the_14_findings_of_the_label_table(shared_data: Path) -> None:
    import gzip

    with gzip.open(shared_data / "nih_labels" / "Data_Entry_2017_v2020.csv.gz", "rt") as stream:
        next(stream)
        found = {name for line in stream for name in line.split(",")[1].split("|")}
    assert set(load_vocabulary("nih14").findings) == found - {"No Finding"}
    assert len(load_vocabulary("nih14")) == 14


def test_another_order_is_another_fingerprint() -> None:
    assert Vocabulary("x", ("A", "B")).fingerprint != Vocabulary("x", ("B", "A")).fingerprint
    assert Vocabulary("x", ("A", "B")).fingerprint == Vocabulary("y", ("A", "B")).fingerprint


@pytest.mark.parametrize("findings", [(), ("A", "A"), ("A", "No Finding"), ("A", " ")])
def test_a_vocabulary_that_is_none_is_refused(findings: tuple[str, ...]) -> None:
    with pytest.raises(UserError):
        Vocabulary("x", findings)


def test_a_vocabulary_of_the_users_own_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nfindings: [Edema, Mass]\n")
    assert load_vocabulary(str(path)) == Vocabulary("mine", ("Edema", "Mass"))
    with pytest.raises(UserError, match="there are: chexpert13, nih14, rsna1, vindr27"):
        load_vocabulary("nope")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("finding: [a, b]\n", "line 1: unknown key 'finding'. Did you mean 'findings'"),
        ("name: x\nfindings: a\n", "line 2: findings: expected a list, such as .a."),
        ("findings:\n  - a\n  - yes\n", "line 3: findings.1: expected text; put it in quotes .given: true."),
        ("findings: [a, a]\n", "a stands twice"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_vocabulary(str(path))
