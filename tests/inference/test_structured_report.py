"""The structured report, read back by highdicom and pydicom as an archive would."""

from __future__ import annotations

import io
from types import SimpleNamespace

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, generate_uid

from nc_medfl.inference.likeness import Likeness
from nc_medfl.inference.scoring import Answer, FindingAnswer
from nc_medfl.inference.structured_report import PROBABILITY, UNLIKE, build_report, read_probabilities

FINDINGS = ("Mass", "Pleural_Thickening", "Pleural_Thickening_old", "<script>x</script>")


def _source() -> Dataset:
    source = Dataset()
    source.SOPClassUID = ComputedRadiographyImageStorage
    for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(source, name, generate_uid(entropy_srcs=[name]))
    for name in ("PatientBirthDate", "PatientSex", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"):
        setattr(source, name, "")
    source.PatientID, source.PatientName, source.StudyDate = "p1", "Doe^Jo", "20260102"
    return source


def _report(flagged: bool) -> tuple[Dataset, bytes]:
    source = _source()
    found = [FindingAnswer(name, 0.4, 0.125 * (k + 1), 0.3, True, "") for k, name in enumerate(FINDINGS)]
    answer = Answer(tuple(found), Likeness(9.5 if flagged else 1.5, 4.25, flagged, ""))
    model = SimpleNamespace(name="demo", package_version="0.1.0", fingerprint="ab" * 32)
    buffer = io.BytesIO()
    build_report(source, answer, model).save_as(buffer)
    return source, buffer.getvalue()


def test_it_reads_back_with_its_source_and_its_probabilities():
    source, content = _report(flagged=False)
    report = pydicom.dcmread(io.BytesIO(content))
    assert (report.Modality, report.VerificationFlag) == ("SR", "UNVERIFIED")
    assert (report.PatientID, report.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    assert report.SeriesInstanceUID != source.SeriesInstanceUID
    uid, told = read_probabilities(content)
    assert uid == source.SOPInstanceUID
    np.testing.assert_allclose([told[name] for name in FINDINGS], [0.125, 0.25, 0.375, 0.5])


def test_findings_that_begin_alike_have_codes_of_their_own():
    groups = hd.sr.srread(io.BytesIO(_report(flagged=False)[1])).content.get_image_measurement_groups()
    codes = [g.finding_type.value for g in groups if g.get_measurements(name=PROBABILITY)]
    assert codes == list(FINDINGS)


@pytest.mark.parametrize("flagged", [True, False])
def test_an_image_unlike_the_training_data_is_flagged_in_it(flagged):
    groups = hd.sr.srread(io.BytesIO(_report(flagged)[1])).content.get_image_measurement_groups()
    group = next(g for g in groups if g.get_measurements(name=UNLIKE))
    assert [m.value for m in group.get_measurements()] == [9.5 if flagged else 1.5, 4.25]
    assert [q.value.value for q in group.get_qualitative_evaluations()] == ["flagged" if flagged else "not flagged"]
