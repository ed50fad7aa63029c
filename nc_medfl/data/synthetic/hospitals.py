"""What a synthetic hospital is: whom it sees, what its machine writes, how it keeps labels; and four of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from nc_medfl.data.synthetic.nih_counts import NIH_FINDINGS
from nc_medfl.data.synthetic.scanner import ScannerStyle
from nc_medfl.errors import UserError


@dataclass(frozen=True)
class TableStyle:
    """How a hospital keeps its labels.

    Args:
        image_column: the column that names the image.
        image_key: whether it does so by ``filename`` or by ``sop_instance_uid``.
        names: what the hospital calls each finding, for those it reads for; a finding left out stays unknown there.
        delimited: the one column that lists the findings, None for a column a finding.
        separator: between the names of a delimited column.
        normal: what a delimited column says of a film without findings.
        positive: how a wide table writes yes.
        negative: how it writes no.
        uncertain: how it writes perhaps.
        unknown: how it writes that nobody looked.
        uncertain_rate: share of entries that say perhaps.
        unknown_rate: share of entries that say nothing.
        patient_column: a column with the patient's number, None where only the DICOM file says it.
        extra: further columns that say nothing of the findings, with what stands in them.
    """

    image_column: str
    image_key: Literal["filename", "sop_instance_uid"]
    names: Mapping[str, str]
    delimited: str | None = None
    separator: str = ";"
    normal: str = "normal"
    positive: str = "1"
    negative: str = "0"
    uncertain: str = "-1"
    unknown: str = ""
    uncertain_rate: float = 0.0
    unknown_rate: float = 0.0
    patient_column: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = sorted(set(self.names) - set(NIH_FINDINGS))
        if wrong:
            raise UserError(
                f"synthetic label table: unknown finding '{wrong[0]}'. There are: {', '.join(NIH_FINDINGS)}."
            )
        if self.delimited is not None and len(self.names) < len(NIH_FINDINGS):
            raise UserError(
                f"synthetic label table: the delimited column '{self.delimited}' needs a name for each of the 14 "
                "findings: what is not listed there counts as absent, not as unknown."
            )


@dataclass(frozen=True)
class Hospital:
    """One synthetic hospital.

    Args:
        name: short name, also of its folder: lower case letters, digits and underscores.
        table: how it keeps labels.
        scanner: what its machine writes.
        emphasis: findings it sees more than others, with their least prevalence.
        missing: findings it never sees. Its labels for them are negative.
        floor: least prevalence of every other finding; rare ones are enriched up to it.
        images_per_patient: fewest and most films of a patient.
        ap_share: share of bedside (AP) films.
    """

    name: str
    table: TableStyle
    scanner: ScannerStyle = field(default_factory=ScannerStyle)
    emphasis: Mapping[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    floor: float = 0.085
    images_per_patient: tuple[int, int] = (1, 3)
    ap_share: float = 0.4

    def __post_init__(self) -> None:
        if not self.name or not self.name.replace("_", "a").isalnum() or self.name != self.name.lower():
            raise UserError(f"synthetic hospital '{self.name}': name it in lower case letters, digits and underscores.")
        low, high = self.images_per_patient
        if not 1 <= low <= high:
            raise UserError(f"synthetic hospital {self.name}: images_per_patient is (fewest, most), from 1 upwards.")


def _named(*names: str) -> Mapping[str, str]:
    """The names of the 14 findings, given in the order of the vocabulary."""
    return MappingProxyType(dict(zip(NIH_FINDINGS, names, strict=True)))


_ENGLISH = _named(
    "atelectasis", "heart_enlarged", "consolidation", "edema", "effusion", "emphysema", "fibrosis", "hernia",
    "infiltrate", "mass", "nodule", "pleura_thick", "pneumonia", "pneumothorax",
)  # fmt: skip
_GERMAN = _named(
    "Atelektase", "Kardiomegalie", "Konsolidierung", "Lungenödem", "Pleuraerguss", "Emphysem", "Fibrose",
    "Zwerchfellhernie", "Infiltrat", "Raumforderung", "Rundherd", "Pleuraschwarte", "Pneumonie", "Pneumothorax",
)  # fmt: skip
_FRENCH = _named(
    "atelectasie", "cardiomegalie", "condensation", "oedeme", "epanchement_pleural", "emphyseme", "fibrose",
    "hernie_hiatale", "infiltrat", "masse", "nodule", "epaississement_pleural", "pneumonie", "pneumothorax",
)  # fmt: skip
_CODED = _named(
    "ATEL", "CMEG", "CONS", "EDEM", "EFFU", "EMPH", "FIBR", "HERN", "INFI", "MASS", "NODU", "PLTH", "PNEU", "PTX",
)  # fmt: skip

#: Four hospitals that see different diseases, write different files and keep different tables.
DEFAULT_HOSPITALS: tuple[Hospital, ...] = (
    Hospital(  # a heart centre with an old but steady computed radiography unit
        name="st_mary",
        scanner=ScannerStyle(bits=12, voi="window", coding="explicit", noise=0.014, maker="Synthetic CR One"),
        table=TableStyle(
            "file", "filename", _ENGLISH, positive="yes", negative="no", uncertain="?", extra={"comment": "none"}
        ),
        emphasis=MappingProxyType({"Cardiomegaly": 0.21, "Edema": 0.21, "Effusion": 0.24}),
        missing=("Emphysema", "Fibrosis"),
    ),
    Hospital(  # a lung clinic: inverted pixels, a sigmoid window, JPEG-LS
        name="klinikum_nord",
        scanner=ScannerStyle(
            "DX", "MONOCHROME1", 16, "sigmoid", "jpeg_ls", gamma=1.12, noise=0.010, maker="Synthetic DX Two"
        ),
        table=TableStyle("SOPInstanceUID", "sop_instance_uid", _GERMAN, "Befund", ";", "o.B."),
        emphasis=MappingProxyType(
            {"Emphysema": 0.21, "Fibrosis": 0.21, "Pleural_Thickening": 0.21, "Pneumothorax": 0.2}
        ),
        missing=("Edema", "Hernia"),
        ap_share=0.2,
    ),
    Hospital(  # an emergency department: signed values with a rescale, JPEG 2000, many bedside films
        name="hopital_du_parc",
        scanner=ScannerStyle(
            bits=16,
            voi="windows",
            coding="jpeg_2000",
            signed=True,
            slope=0.25,
            intercept=4096.0,
            gamma=0.92,
            noise=0.022,
            maker="Synthetic CR Three",
        ),
        table=TableStyle(
            "uid_image", "sop_instance_uid", _FRENCH, uncertain_rate=0.015, unknown_rate=0.01, patient_column="dossier"
        ),
        emphasis=MappingProxyType({"Pneumonia": 0.21, "Consolidation": 0.21, "Infiltration": 0.25}),
        missing=("Mass", "Pleural_Thickening"),
        ap_share=0.6,
    ),
    Hospital(  # a tumour clinic: lossy 8-bit files with oblong pixels, and nobody reads for infiltrates
        name="harbour_clinic",
        scanner=ScannerStyle(
            "DX", "MONOCHROME2", 8, "window", "jpeg", aspect=1.25, gamma=1.05, maker="Synthetic DX Four"
        ),
        table=TableStyle(
            "image",
            "filename",
            MappingProxyType({k: v for k, v in _CODED.items() if k != "Infiltration"}),
            positive="Y",
            negative="N",
            uncertain="U",
            extra={"reader": "R1"},
        ),
        emphasis=MappingProxyType({"Mass": 0.21, "Nodule": 0.21, "Hernia": 0.21}),
        missing=("Cardiomegaly", "Pneumonia"),
    ),
)
