"""Tables in the shapes in which data sets are published, and what is read from them; all values worked out by hand."""

from __future__ import annotations

import gzip
import io
import time
from pathlib import Path

import numpy as np
import pytest

from nc_medfl.data.radiograph import Facts
from nc_medfl.data.settings import PrepareSettings
from nc_medfl.data.sources import LabelChoices, read_labels
from nc_medfl.data.sources.facts import facts_in, facts_of_table
from nc_medfl.data.sources.medmnist import CHESTMNIST, read_npz_labels
from nc_medfl.data.sources.padchest import listed
from nc_medfl.errors import UserError
from nc_medfl.labels import Named, load_vocabulary

CHEXPERT = """\
Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,\
Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices
CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0
CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Female,87,Frontal,PA,,,-1.0,1.0,,-1.0,,,,,-1.0,,1.0,
CheXpert-v1.0-small/train/patient00002/study1/view2_lateral.jpg,Male,83,Lateral,,,,,1.0,,,,,,,1.0,,,
"""
MIMIC = """\
subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,\
Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices
10000032,50414267,,,,,,,,,1.0,,,,,
10000032,53189527,,1.0,,-1.0,,,,,,0.0,,,,
"""
MIMIC_IMAGES = """\
dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime
02aa804e-bde0,10000032,50414267,CHEST (PA AND LAT),PA,3056,2544,21800506,213014.531
174413ec-4ec4,10000032,50414267,CHEST (PA AND LAT),LATERAL,3056,2544,21800506,213014.531
2a2277a9-b0de,10000032,53189527,CHEST (PA AND LAT),AP,3056,2544,21800626,165500.312
e084de3b-be89,10000032,59999999,CHEST (PA AND LAT),AP,3056,2544,21800626,165500.312
"""
PADCHEST = """\
,ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,\
Report,Labels,Localizations
0,1_a.png,0,20140915,s1,8398,1930.0,F,POSTEROANTERIOR,PA,"sin hallazgos, alta",['normal'],[]
1,2_b.png,0,20150915,s2,3135,1929.0,M,,L,x,"['emphysema', 'hydropneumothorax ', 'scoliosis']",[]
2,3_c.png,0,20150915,s3,99,1929.0,M,,AP_horizontal,x,"['unchanged', 'cardiomegaly']",[]
3,4_d.png,0,20150915,s4,98,,M,,PA,x,,[]
4,5_e.png,0,20150915,s4,98,,M,,PA,x,"['normal', 'pleural effusion']",[]
"""
VINDR = """\
image_id,rad_id,Cardiomegaly,Nodule/Mass,Pleural effusion,Other diseases,No finding
a,R1,0,0,0,0,1
a,R2,0,0,0,0,1
a,R3,1,0,0,0,0
b,R1,1,1,0,1,0
b,R2,1,1,0,0,0
b,R3,0,0,1,0,0
c,R4,1,0,0,0,0
c,R5,0,0,0,0,1
"""
VINDR_BOXES = """\
image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
a,No finding,14,R1,,,,
a,No finding,14,R2,,,,
a,Cardiomegaly,3,R3,1,2,3,4
b,Cardiomegaly,3,R1,1,2,3,4
b,Cardiomegaly,3,R1,5,6,7,8
b,Nodule/Mass,8,R2,1,2,3,4
b,Cardiomegaly,3,R2,1,2,3,4
b,Pleural effusion,10,R3,1,2,3,4
"""
RSNA = "patientId,x,y,width,height,Target\np1,,,,,0\np2,1,2,3,4,1\np2,5,6,7,8,1\np3,,,,,0\n"
RSNA_CLASSES = "patientId,class\np1,No Lung Opacity / Not Normal\np2,Lung Opacity\np2,Lung Opacity\np3,Normal\n"


@pytest.fixture
def read(tmp_path):
    """Read tables as a source: label by image and finding (None: unknown), and the opened table."""

    def opened(source: str, table: str, metadata: str | None = None, vocabulary: str = "nih14", **choices):
        (tmp_path / "table.csv").write_text(table)
        if metadata is not None:
            (tmp_path / "second.csv").write_text(metadata)
            choices["metadata"] = tmp_path / "second.csv"
        return read_labels(
            LabelChoices(source, tmp_path / "table.csv", vocabulary=vocabulary, **choices), load_vocabulary(vocabulary)
        )

    return opened


def known(table, vocabulary: str = "nih14") -> list[dict[str, int]]:
    """By image, what is known, with No Finding."""
    findings = load_vocabulary(vocabulary).findings
    rows = np.column_stack([table.labels.labels, table.labels.no_finding])
    return [{f: int(v) for f, v in zip((*findings, "No Finding"), row, strict=True) if v == v} for row in rows]


def test_chexpert_in_its_own_words(read):
    table = read("chexpert", CHEXPERT, vocabulary="chexpert13")
    assert table.labels.keys[0] == "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    assert table.labels.patients == ("patient00001", "patient00002", "patient00002")
    # A normal film with a device is no contradiction; blank and uncertain are unknown.
    assert known(table, "chexpert13") == [
        {"Pneumothorax": 0, "Support Devices": 1, "No Finding": 1},
        {"Lung Opacity": 1, "Fracture": 1, "No Finding": 0},
        {"Lung Opacity": 1, "Pleural Effusion": 1, "No Finding": 0},
    ]
    assert table.labels.contradictory == 0


def test_chexpert_in_nihs_words_with_policies_of_one_finding(read):
    table = read("chexpert", CHEXPERT, uncertain=("Edema=ones", "Effusion=zeros"), blank=("Pneumonia=negative",))
    assert known(table) == [
        {"Pneumothorax": 0, "Pneumonia": 0, "No Finding": 1},
        # The opacity and the fracture are left out, and there.
        {"Edema": 1, "Effusion": 0, "Pneumonia": 0, "No Finding": 0},
        {"Effusion": 1, "Pneumonia": 0, "No Finding": 0},
    ]


def test_chexperts_view_sex_and_age_come_from_the_table(read):
    table = read("chexpert", CHEXPERT)
    said = [facts_of_table(Facts(rows=10, cols=10), extra) for extra in facts_in(table.rows, table.label_map)]
    assert [(f.view, f.sex, f.age) for f in said] == [("AP", "F", 68), ("PA", "F", 87), ("LATERAL", "M", 83)]


def test_mimics_studies_become_images_by_the_second_table(read):
    table = read("mimic", MIMIC, MIMIC_IMAGES)
    assert table.labels.keys == ("02aa804e-bde0", "174413ec-4ec4", "2a2277a9-b0de")
    assert table.labels.patients == ("10000032",) * 3
    assert known(table) == [{"No Finding": 1}] * 2 + [{"Cardiomegaly": 1, "Effusion": 0, "No Finding": 0}]
    views = [facts_of_table(Facts(1, 1), extra).view for extra in facts_in(table.rows, table.label_map)]
    assert views == ["PA", "LATERAL", "AP"]
    with pytest.raises(UserError, match=r"Give mimic-cxr-2.0.0-metadata.csv.gz as --metadata"):
        read("mimic", MIMIC)
    with pytest.raises(UserError, match=r"second\.csv: has no study of table\.csv"):
        read("mimic", MIMIC, MIMIC_IMAGES.replace(",10000032,", ",7,"))


def test_padchests_lists_are_taken_apart(read):
    table = read("padchest", PADCHEST)
    assert table.labels.patients == ("8398", "3135", "99", "98", "98")
    first, second, third, fourth, fifth = known(table)
    findings = load_vocabulary("nih14").findings
    assert first == {**dict.fromkeys(findings, 0), "No Finding": 1}
    assert {f for f, v in second.items() if v} == {"Emphysema", "Effusion", "Pneumothorax"}
    assert len(second) == 15
    # 'unchanged' leaves open what it doesn't name; an empty cell says nothing.
    assert third == {"Cardiomegaly": 1, "No Finding": 0}
    assert fourth == {}
    assert (fifth["Effusion"], fifth["No Finding"], table.labels.contradictory) == (1, 0, 1)
    said = [facts_of_table(Facts(1, 1), extra) for extra in facts_in(table.rows, table.label_map)]
    assert [(f.view, f.sex, f.age) for f in said[:4]] == [
        *(("PA", "F", 84), ("LATERAL", "M", 86), ("AP", "M", 86), ("PA", "M", None)),
    ]
    # The report is free text and isn't even kept in memory.
    assert "Report" not in table.rows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("['normal']", "normal"),
        ("['a b ', ' c']", "a b|c"),
        ("[]", ""),
        ("nan", ""),
        ("['']", ""),
        ("[\"Chilaiditi's sign\", 'x']", "Chilaiditi's sign|x"),
    ],
)
def test_a_python_list_is_read_without_running_it(text, expected):
    assert listed(text) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # a: 1 of 3 readers says cardiomegaly.  b: 2 of 3; a lump by 2 of 3; an effusion by 1 of 3.  c: 1 of 2.
        ("majority", [(0, 0, 0, 1), (1, None, 0, 0), (None, 0, 0, None)]),
        ("any", [(1, 0, 0, 0), (1, None, 1, 0), (1, 0, 0, 0)]),
        ("all", [(0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 0)]),
    ],
)
def test_vindrs_readers_are_brought_together(read, rule, expected):
    table = read("vindr", VINDR, agreement=rule)
    assert table.labels.keys == ("a", "b", "c")
    # Nodule and mass are told together only: absent both, or unknown which.
    columns = ("Cardiomegaly", "Nodule", "Effusion", "No Finding")
    assert [tuple(image.get(name) for name in columns) for image in known(table)] == expected
    assert all(image.get("Mass") == image.get("Nodule") for image in known(table))


def test_vindrs_own_words_have_a_lump_of_either_kind(read):
    images = known(read("vindr", VINDR, vocabulary="vindr27"), "vindr27")
    assert [image["Nodule/Mass"] for image in images] == [0, 1, 0]
    assert [image["Other disease"] for image in images] == [0, 0, 0]


def test_vindrs_boxes_count_once_a_reader(read):
    table = read("vindr", VINDR_BOXES)
    # b: two boxes of one reader are one vote, so cardiomegaly has 2 of 3, the others 1 of 3. What nobody marked
    # anywhere in the table has no column and is unknown.
    lumps = {"Nodule": 0, "Mass": 0}
    assert known(table) == [
        {"Cardiomegaly": 0, "Effusion": 0, **lumps, "No Finding": 1},
        {"Cardiomegaly": 1, "Effusion": 0, **lumps, "No Finding": 0},
    ]


def test_rsnas_boxes_become_one_row_an_image(read):
    assert known(read("rsna", RSNA)) == [{"Pneumonia": 0}, {"Pneumonia": 1, "No Finding": 0}, {"Pneumonia": 0}]
    told = known(read("rsna", RSNA, RSNA_CLASSES))
    assert [image["No Finding"] for image in told] == [0, 0, 1]
    assert known(read("rsna", RSNA, vocabulary="rsna1"), "rsna1")[1] == {"Lung Opacity": 1, "No Finding": 0}
    with pytest.raises(UserError, match="holds other classes than Lung Opacity"):
        read("rsna", RSNA, RSNA_CLASSES.replace("Normal\n", "Odd\n"))


def npz(path: Path, **changes) -> Path:
    labels = np.zeros((2, 14), dtype=np.uint8)
    labels[1, [0, 12]] = 1
    arrays = {f"{split}_labels": labels for split in ("train", "val", "test")}
    arrays |= {f"{split}_images": np.zeros((2, 28, 28), np.uint8) for split in ("train", "val", "test")}
    np.savez(path, **{**arrays, **changes})
    return path


def test_chestmnists_labels_are_in_the_order_of_its_publication(tmp_path):
    keys, labels = read_npz_labels(npz(tmp_path / "chestmnist.npz"))
    assert keys == ["train/000000", "train/000001", "val/000000", "val/000001", "test/000000", "test/000001"]
    assert labels.shape == (6, 14)
    assert [CHESTMNIST[place] for place in np.flatnonzero(labels[1])] == ["atelectasis", "pleural"]
    table = read_labels(LabelChoices("medmnist", tmp_path / "chestmnist.npz"), load_vocabulary("nih14"))
    sick = known(table)[1]
    assert {name for name, value in sick.items() if value} == {"Atelectasis", "Pleural_Thickening"}
    assert known(table)[0]["No Finding"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_labels": np.zeros((2, 1), np.uint8)}, "only ChestMNIST is read"),
        ({"val_labels": np.full((2, 14), 3)}, "'val_labels' is no table of 0 and 1"),
        ({"test_labels": np.array([{"a": 1}], dtype=object)}, "cannot be read as .npz"),
    ],
)
def test_another_archive_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read_npz_labels(npz(tmp_path / "x.npz", **changes))
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UserError, match=r"cannot be read as \.npz"):
        read_npz_labels(tmp_path / "x.npz")


@pytest.mark.parametrize("source", ["chexpert", "mimic", "padchest", "vindr", "rsna"])
def test_a_table_of_another_source_is_refused_with_the_name_of_the_right_one(read, source):
    with pytest.raises(UserError, match=r"table\.csv: no column '.*' \(it has: a, b\)\. Give "):
        read(source, "a,b\n1,2\n", "a,b\n1,2\n" if source in ("mimic", "rsna") else None)


@pytest.mark.parametrize(
    ("source", "choices", "message"),
    [
        ("nihh", {}, "there are dicom, folder, nih, chexpert, mimic, padchest, vindr, rsna, medmnist"),
        ("nih", {"vocabulary": "vindr27"}, r"there are: nih \(to nih14\), nih-chexpert13"),
        ("nih", {"named": Named(ignore=("sex",))}, "--ignore-column sex: --source nih says already"),
        (
            "dicom",
            {"named": Named(ignore=("sex",)), "label_map": "nih"},
            "--ignore-column sex: --label-map says already",
        ),
        ("dicom", {"named": Named(labels=("x",)), "label_map": "nih"}, "--label-columns x: --label-map says already"),
        ("dicom", {"agreement": "any"}, "--agreement: source 'dicom' has one label an image"),
        ("vindr", {"agreement": "most"}, "--agreement most: there are majority, any, all"),
        ("dicom", {"metadata": Path("x.csv")}, "--metadata: source 'dicom' has no second table"),
        ("dicom", {"named": Named(key="uid")}, "--image-key uid: there are filename"),
        ("dicom", {"blank": ("zeros",)}, "--blank zeros: there are unknown and negative"),
        ("folder", {}, "Name the column of the patient with --patient-column"),
    ],
)
def test_choices_that_cannot_be_meant_are_refused(tmp_path, source, choices, message):
    (tmp_path / "t.csv").write_text("file,Effusion\na.png,1\n")
    vocabulary = load_vocabulary(choices.get("vocabulary", "nih14"))
    with pytest.raises(UserError, match=message):
        read_labels(LabelChoices(source, tmp_path / "t.csv", **choices), vocabulary)


def test_a_wrong_map_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("file,Effusion\na.png,1\n")
    with pytest.raises(UserError, match=r"t\.csv: no column 'Image Index' .*Label map 'nih' takes the image from it"):
        read_labels(LabelChoices("dicom", tmp_path / "t.csv", label_map="nih"), load_vocabulary("nih14"))
    with pytest.raises(UserError, match="label map 'chexpert-chexpert13': maps to vocabulary 'chexpert13'"):
        read_labels(
            LabelChoices("dicom", tmp_path / "t.csv", label_map="chexpert-chexpert13"), load_vocabulary("nih14")
        )


def test_the_spacing_of_the_original_is_brought_to_the_picture():
    # 2991 rows of 0.143 mm, now 1024 rows.
    said = facts_of_table(Facts(rows=1024, cols=1024), {"rows": "2991", "spacing": "0.143", "age": "62.0"})
    assert said.spacing == pytest.approx(0.143 * 2991 / 1024)
    assert said.age == 62
    assert facts_of_table(Facts(rows=10, cols=10, spacing=0.2, sex="F"), {"spacing": "x"}).spacing == 0.2


def test_the_whole_nih_table_takes_a_few_seconds(shared_data):
    path = shared_data / "nih_labels" / "Data_Entry_2017_v2020.csv.gz"
    start = time.perf_counter()
    table = read_labels(LabelChoices("nih", path), load_vocabulary("nih14"))
    assert time.perf_counter() - start < 20
    assert len(table.labels.keys) == 112_120
    # Counted straight from the text.
    text = gzip.decompress(path.read_bytes()).decode()
    cells = [line.split(",")[1] for line in io.StringIO(text)][1:]
    for column, name in enumerate(load_vocabulary("nih14").findings):
        assert int(table.labels.labels[:, column].sum()) == sum(name in cell.split("|") for cell in cells)
    assert int(table.labels.no_finding.sum()) == cells.count("No Finding")
    assert len(set(table.labels.patients or ())) == 30_805


def test_settings_say_the_same_of_labels_as_the_command_line():
    choices = PrepareSettings(
        "vindr", Path("i"), Path("l.csv"), Path("o"), uncertain="zeros", blank=("Edema=negative",), agreement="all"
    ).label_choices()
    assert (choices.uncertain, choices.blank, choices.agreement) == (("zeros",), ("Edema=negative",), "all")
