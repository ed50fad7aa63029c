"""Tables of predictions: what is read, and what is refused in one line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nc_medfl.errors import UserError
from nc_medfl.evaluation.predictions import read_predictions

HEADER = "sample_id,patient_key,site,split,sex,age,label:Mass,score:Mass\n"
GOOD = HEADER + "a,p1,north,val,F,40,1,0.9\nb,p1,north,val,F,40,0,0.2\nb,p1,south,test,M,,,0.5\n"


def _write(folder, text, name="p.csv"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_blank_label_is_unknown_and_equal_keys_at_two_sites_are_two_patients(tmp_path):
    read = read_predictions(_write(tmp_path, GOOD))
    np.testing.assert_array_equal(read.labels[:, 0], [1, 0, np.nan])
    np.testing.assert_array_equal(read.scores[:, 0], [0.9, 0.2, 0.5])
    assert read.patient.tolist() == [0, 0, 1]
    assert (read.sites, read.site.tolist(), read.findings) == (("north", "south"), [0, 0, 1], ("Mass",))
    np.testing.assert_array_equal(read.age, [40, 40, np.nan])
    assert read.view is None
    assert len(read.of(split="test", site="south")) == 1


def test_parquet_with_numbers_and_nulls_reads_as_csv_does(tmp_path):
    pd.DataFrame(
        {
            "sample_id": [1, 2],
            "patient_key": [7, 8],
            "site": ["north", "north"],
            "split": ["test", "test"],
            "label:Mass": [True, None],
            "score:Mass": np.array([0.5, 0.25], dtype=np.float32),
        }
    ).to_parquet(tmp_path / "p.parquet")
    read = read_predictions(tmp_path / "p.parquet")
    np.testing.assert_array_equal(read.labels[:, 0], [1, np.nan])
    np.testing.assert_array_equal(read.scores[:, 0], [0.5, 0.25])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("patient_key,", "patient,", "no column 'patient_key'"),
        ("label:Mass", "Label:Mass", "unknown column 'Label:Mass'"),
        ("b,p1,north", "a,p1,north", "row 3: this sample_id"),
        ("F,40,1,0.9", "F,40,2,0.9", "row 2: 'label:Mass' must be 1, 0 or blank"),
        ("F,40,1,0.9", "F,40,yes,0.9", "row 2: 'label:Mass' must be 1, 0 or blank"),
        ("1,0.9", "1,1.9", "row 2: 'score:Mass' must be a probability"),
        ("1,0.9", "1,nan", "row 2: 'score:Mass' must be a probability"),
        ("1,0.9", "1,", "row 2: 'score:Mass' must be a probability"),
        ("south,test", "south,holdout", "row 4: 'split' is none of"),
        ("a,p1,", "a,,", "row 2: 'patient_key' is blank"),
        ("south", "pooled", "cannot be called 'pooled'"),
        ("Mass", "macro", "cannot be called 'macro'"),
        ("label:Mass", "label:Hernia", "no score: column"),
        (",sex,age", ",sex,sex", "two columns 'sex'"),
        ("F,40,1", "F,400,1", "'age' must be years"),
        ("1,0.9\n", "1,0.9,7\n", "row 2: it has not the 8 cells"),
        ("1,0.9\n", "1\n", "row 2: it has not the 8 cells"),
        ("south", "so\x07uth", "control characters"),
    ],
)
def test_a_fault_is_told_in_one_line_without_a_patient(tmp_path, old, new, said):
    assert old in GOOD
    with pytest.raises(UserError) as caught:
        read_predictions(_write(tmp_path, GOOD.replace(old, new)))
    text = str(caught.value)
    assert said in text
    assert "\n" not in text
    assert "p1" not in text.replace(str(tmp_path), "")


def test_a_column_that_means_nothing_and_a_test_patient_in_validation_are_remarked(tmp_path):
    assert read_predictions(_write(tmp_path, GOOD)).remarks == ()
    read = read_predictions(_write(tmp_path, GOOD.replace(",sex,", ",blood_group,")))
    assert read.sex is None
    assert [remark.split(": ", 1)[1] for remark in read.remarks] == [
        "left out columns that mean nothing here: 'blood_group'."
    ]
    read = read_predictions(_write(tmp_path, GOOD.replace("b,p1,north,val", "b,p1,north,test")))
    assert "a test patient stands in another split too" in read.remarks[0]


def test_a_score_may_lack_where_its_label_is_unknown(tmp_path):
    columns = "sample_id,patient_key,site,split,label:Mass,score:Mass\n"
    read = read_predictions(_write(tmp_path, columns + "a,p,north,test,,\nb,q,north,test,1,0.5\n"))
    np.testing.assert_array_equal(read.labels[:, 0], [np.nan, 1])
    assert np.isfinite(read.scores).all()


def test_a_missing_an_empty_and_a_broken_file_are_told(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_predictions(tmp_path / "none.csv")
    with pytest.raises(UserError):
        read_predictions(_write(tmp_path, ""))
    with pytest.raises(UserError, match="no rows"):
        read_predictions(_write(tmp_path, HEADER))
    with pytest.raises(UserError, match="not a parquet"):
        read_predictions(_write(tmp_path, "nonsense", "p.parquet"))
    with pytest.raises(UserError, match=r"\.csv or \.parquet"):
        read_predictions(_write(tmp_path, GOOD, "p.txt"))


def test_booleans_in_words_and_an_index_are_read_and_another_encoding_is_named(tmp_path):
    text = GOOD.replace(",1,0.9", ",True,0.9").replace(",0,0.2", ",false,0.2")
    read = read_predictions(_write(tmp_path, text))
    np.testing.assert_array_equal(read.labels[:, 0], [1, 0, np.nan])
    table = pd.read_csv(_write(tmp_path, GOOD), dtype=str).set_index("sample_id")
    table.to_parquet(tmp_path / "indexed.parquet")
    assert read_predictions(tmp_path / "indexed.parquet").sample_id.tolist() == ["a", "b", "b"]
    (tmp_path / "latin.csv").write_bytes(GOOD.replace("Mass", "Müll").encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_predictions(tmp_path / "latin.csv")
