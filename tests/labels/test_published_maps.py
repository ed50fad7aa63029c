"""The label maps of the package: each complete, and each told what it was written for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from nc_medfl.errors import UserError
from nc_medfl.labels import (
    available_label_maps,
    available_vocabularies,
    load_label_map,
    load_vocabulary,
    parse_label_map,
    published_map,
)
from nc_medfl.labels.label_map import check_vocabulary

#: The columns of CheXpert's train.csv that are findings, as published.
CHEXPERT = {
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices"),
}


@pytest.mark.parametrize("name", available_label_maps())
def test_a_map_fits_its_vocabulary_and_says_where_it_comes_from(name):
    label_map = load_label_map(name)
    assert label_map.name == name
    assert label_map.source
    check_vocabulary(label_map, load_vocabulary(label_map.vocabulary), name)


@pytest.mark.parametrize("name", available_vocabularies())
def test_a_vocabulary_is_called_as_its_file_and_ends_in_its_length(name):
    vocabulary = load_vocabulary(name)
    assert vocabulary.name == name
    assert name.endswith(str(len(vocabulary)))


@pytest.mark.parametrize("name", ["chexpert-nih14", "chexpert-chexpert13", "mimic-nih14", "mimic-chexpert13"])
def test_every_column_of_the_chexpert_labeller_is_accounted_for(name):
    label_map = load_label_map(name)
    assert {*label_map.sources(), *label_map.left_out} == CHEXPERT
    assert label_map.uncertain == {"default": "ignore"}
    assert label_map.blank == {"default": "unknown"}


@pytest.mark.parametrize("name", ["vindr-nih14", "vindr-vindr27"])
def test_every_label_of_vindr_is_accounted_for(name):
    label_map = load_label_map(name)
    assert {*label_map.sources(), *label_map.left_out} == set(load_vocabulary("vindr27").findings)


@pytest.mark.parametrize(
    ("finding", "below"),
    [
        ("Atelectasis", [f"{kind} atelectasis" for kind in ("laminar", "lobar", "round", "segmental", "total")]),
        ("Atelectasis", ["atelectasis basal"]),
        ("Effusion", ["loculated pleural effusion", "loculated fissural effusion", "empyema", "hemothorax"]),
        ("Effusion", ["hydropneumothorax"]),
        ("Pneumothorax", ["hydropneumothorax"]),
    ],
)
def test_what_padchests_tree_has_below_a_finding_is_that_finding(finding, below):
    delimited = load_label_map("padchest").delimited
    assert delimited is not None
    assert all(finding in delimited.names[name] for name in below)


def test_every_label_of_nih_is_accounted_for_in_chexperts_words():
    label_map = load_label_map("nih-chexpert13")
    assert {*label_map.sources(), *label_map.left_out} == set(load_vocabulary("nih14").findings)


def test_source_and_vocabulary_choose_the_map():
    assert published_map("nih", "nih14").name == "nih"
    assert published_map("nih", "chexpert13").name == "nih-chexpert13"
    assert published_map("mimic", "chexpert13").name == "mimic-chexpert13"
    with pytest.raises(
        UserError, match=r"no label map to vocabulary 'rsna1'.* vindr-nih14 \(to nih14\), vindr-vindr27"
    ):
        published_map("vindr", "rsna1")


def test_a_map_may_stand_in_a_site_config(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(
        "name: st_mary\nstore: store\nlabel_map:\n  vocabulary: nih14\n  image_column: file\n"
        "  findings: {erguss: Effusion}\n  values: {positive: [yes], negative: [no]}\n"
    )
    label_map = load_label_map(path)
    assert (label_map.name, label_map.findings) == ("st_mary", {"erguss": "Effusion"})
    # yes and no are texts of the table, not truth values.
    assert label_map.values.positive == ("yes",)
    path.write_text("name: st_mary\nlabel_map:\n  vocabulary: nih14\n  image_colum: file\n")
    with pytest.raises(UserError, match=r"site\.yaml, line 4: unknown key 'image_colum'\. Did you mean"):
        load_label_map(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uncertain": {"Edema": "twos"}}, "uncertain.Edema: "),
        ({"blank": "zeros"}, "blank: "),
        ({"image_key": "name"}, "image_key: "),
        ({"facts": {"weight": "kg"}}, "facts.weight: "),
        ({"findings": None, "delimited": {"column": "a"}, "one_of": {"x": ["Mass"]}}, "'one_of' goes with 'findings'"),
    ],
)
def test_a_wrong_value_names_map_and_key(changes, message):
    base = {"name": "m", "vocabulary": "nih14", "image_column": "file", "findings": {"e": "Edema"}}
    with pytest.raises(UserError, match=rf"mine\.yaml: .*{message}"):
        parse_label_map({**base, **changes}, "mine.yaml")


def test_the_maps_of_the_documentation_hold():
    page = Path(__file__).parents[2] / "docs" / "reference" / "labels.md"
    section = page.read_text().partition("## Label maps")[2]
    wide, listed = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL))
    assert parse_label_map(wide, "labels.md").targets() == ["Cardiomegaly", "Nodule", "Mass"]
    rest = {key: value for key, value in wide.items() if key not in ("findings", "one_of", "values")}
    assert parse_label_map({**rest, **listed}, "labels.md").targets() == ["Effusion", "Pneumothorax"]
