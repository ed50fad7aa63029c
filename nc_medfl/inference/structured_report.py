"""A DICOM structured report of probabilities (PS3.16 TID 1500), with the image it is about as its evidence.

It belongs to that image's study, so it carries the patient's identifiers, as DICOM wants it: it is for the site's
own archive. Nothing else in this package writes identifiers.
"""

from __future__ import annotations

import io
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from nc_medfl.errors import UserError, writing
from nc_medfl.inference.description import ModelDescription
from nc_medfl.inference.model_file import PortableModel
from nc_medfl.inference.predict import Prediction, shown
from nc_medfl.inference.scoring import Answer

#: Codes of our own; the standard has none for the probability of an arbitrary finding.
SCHEME = "99NCMEDFL"
PROBABILITY = CodedConcept("probability", SCHEME, "Probability by model")
UNLIKE = CodedConcept("unlike_training_data", SCHEME, "Distance from the training images")
LIMIT = CodedConcept("limit", SCHEME, "Distance beyond which an image is flagged")
FLAG = CodedConcept("flag", SCHEME, "Whether the image is like the training images")
#: By whether it is flagged.
FLAGS = {
    True: CodedConcept("flagged", SCHEME, "Unlike them: the probabilities mean nothing"),
    False: CodedConcept("not flagged", SCHEME, "Not flagged; the probabilities can be wrong too"),
}
_DISCLAIMER = "Research only; not a medical device"
_TOO_LONG = 64


def write_report_of(prediction: Prediction, model: PortableModel, folder: Path) -> Path:
    """Write a report of one DICOM file's prediction, read it back and compare.

    Args:
        prediction: with an answer.
        model: that gave it.
        folder: made if missing; the file is named by its own UID.

    Returns:
        The report's path.

    Raises:
        UserError: if the source is no DICOM image with the UIDs that a reference needs, or the folder can't be written.
    """
    if prediction.answer is None:
        raise ValueError("a prediction without an answer has no report")
    source = _source(prediction)
    report = build_report(source, prediction.answer, model.description)
    buffer = io.BytesIO()
    report.save_as(buffer)
    content = buffer.getvalue()
    _check(content, source, prediction.answer)
    path = folder / f"{report.SOPInstanceUID}.dcm"
    temporary = path.with_name(f".{path.name}.tmp")
    make_folder(folder)
    with _writing(folder):
        try:
            # Readable by its owner alone: it names the patient.
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    return path


def make_folder(folder: Path) -> None:
    """Make the folder for reports, where it is missing.

    Raises:
        UserError: if it can't be made, or is a file.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _writing(folder: Path) -> AbstractContextManager[None]:
    return writing(folder, "Give another folder.", told_as=f"--dicom-sr {folder}")


def _source(prediction: Prediction) -> Dataset:
    wanted = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    refusal = (
        f"{shown(prediction.given.file)}: --dicom-sr: only a DICOM image with its UIDs can be referenced. "
        "Leave the option out for other files."
    )
    if prediction.given.sample_id:
        raise UserError(refusal)
    try:
        source = pydicom.dcmread(prediction.given.file, stop_before_pixels=True, force=True)
    except Exception as error:  # a picture that is no DICOM fails in many ways
        raise UserError(refusal) from error
    if not all(str(source.get(name, "")) for name in wanted):
        raise UserError(refusal)
    # What highdicom copies must be there, and may be empty (type 2).
    for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
        if name not in source:
            setattr(source, name, "")
    for name in ("AccessionNumber", "ReferringPhysicianName"):
        if name not in source:
            setattr(source, name, "")
    return source


def build_report(source: Dataset, answer: Answer, description: ModelDescription) -> Any:
    """The report as a data set.

    Args:
        source: the image's header.
        answer: of the model.
        description: of the model.

    Returns:
        highdicom's ``ComprehensiveSR``; the same image and model give the same UIDs.
    """
    uid = _uids(source, description)
    image = hd.sr.SourceImageForMeasurementGroup(str(source.SOPClassUID), str(source.SOPInstanceUID))
    algorithm = hd.sr.AlgorithmIdentification(
        name=description.name[:_TOO_LONG],
        version=description.package_version,
        parameters=[f"model {description.fingerprint}", _DISCLAIMER],
    )
    groups = [
        _group(
            uid("finding", f.finding),
            _code(f.finding),
            algorithm,
            image,
            measurements=[_number(PROBABILITY, f.probability)],
        )
        for f in answer.findings
    ]
    if answer.likeness is not None:
        like = answer.likeness
        extra = {
            "measurements": [_number(UNLIKE, like.score), _number(LIMIT, like.limit)],
            "qualitative_evaluations": [hd.sr.QualitativeEvaluation(name=FLAG, value=FLAGS[like.flagged])],
        }
        groups.append(_group(uid("unlike"), UNLIKE, algorithm, image, **extra))
    device = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=uid("device"), name="nc_medfl", model_name=description.name[:_TOO_LONG]
        ),
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=device),
        procedure_reported=CodedConcept("399208008", "SCT", "Plain chest X-ray"),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    return hd.sr.ComprehensiveSR(
        evidence=[source],
        content=content[0],
        series_instance_uid=uid("series"),
        series_number=9001,
        sop_instance_uid=uid("instance"),
        instance_number=1,
        manufacturer="nc_medfl",
        is_complete=True,
        is_final=False,
        is_verified=False,
    )


def _uids(source: Dataset, description: ModelDescription) -> Any:
    def uid(*kind: str) -> str:
        return str(generate_uid(entropy_srcs=[str(source.SOPInstanceUID), description.fingerprint, *kind]))

    return uid


def _group(uid: str, finding: Any, algorithm: Any, image: Any, **content: Any) -> Any:
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=uid, identifier=str(finding.meaning)),
        finding_type=finding,
        algorithm_id=algorithm,
        source_images=[image],
        **content,
    )


def _number(name: Any, value: float) -> Any:
    return hd.sr.Measurement(name=name, value=round(value, 6), unit=codes.UCUM.NoUnits)


def _code(finding: str) -> Any:
    # Whole: names that begin alike must not share a code. Beyond 16 characters it becomes a Long Code Value.
    return CodedConcept(finding, SCHEME, finding[:_TOO_LONG])


def read_probabilities(content: bytes) -> tuple[str, dict[str, float]]:
    """Read a report: the SOP Instance UID of its evidence, and the probability of each finding."""
    report = hd.sr.srread(io.BytesIO(content))
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    found = {}
    for group in report.content.get_image_measurement_groups():
        for measurement in group.get_measurements(name=PROBABILITY):
            found[str(group.finding_type.meaning)] = float(measurement.value)
    return str(evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID), found


def _check(content: bytes, source: Dataset, answer: Answer) -> None:
    evidence, found = read_probabilities(content)
    wanted = {f.finding[:_TOO_LONG]: round(f.probability, 6) for f in answer.findings}
    if evidence != str(source.SOPInstanceUID) or found != wanted:
        raise UserError("--dicom-sr: the report does not read back as written. Leave the option out and report this.")
