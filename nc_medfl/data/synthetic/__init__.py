"""Synthetic hospitals: drawn chest radiographs with the 14 NIH findings, written as DICOM with label tables.

``drawing`` makes a picture from a set of findings (``anatomy`` and ``skeleton`` the chest, ``findings`` what is
wrong with it), ``prevalence`` draws such sets as they occur in a real table (``nih_counts``), ``scanner`` writes a
picture as a hospital's machine would, ``hospitals`` and ``tables`` say who the hospitals are and how they keep
their labels, ``making`` puts it all on disk. Nothing here shows, or was traced from, a real patient.
"""

from nc_medfl.data.synthetic.drawing import draw_radiograph
from nc_medfl.data.synthetic.findings import FINDINGS
from nc_medfl.data.synthetic.hospitals import DEFAULT_HOSPITALS, Hospital, TableStyle
from nc_medfl.data.synthetic.making import HospitalFolder, make_hospitals, make_radiograph_dicom, plan_hospital
from nc_medfl.data.synthetic.prevalence import combination_weights, sample_findings
from nc_medfl.data.synthetic.scanner import Person, ScannerStyle, radiograph_dataset, write_dicom

__all__ = [
    "DEFAULT_HOSPITALS",
    "FINDINGS",
    "Hospital",
    "HospitalFolder",
    "Person",
    "ScannerStyle",
    "TableStyle",
    "combination_weights",
    "draw_radiograph",
    "make_hospitals",
    "make_radiograph_dicom",
    "plan_hospital",
    "radiograph_dataset",
    "sample_findings",
    "write_dicom",
]
