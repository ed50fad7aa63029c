"""DICOM in: from a file as a modality wrote it to display pixels and facts that identify nobody.

``reader`` judges, ``decode`` decodes, ``display`` applies the look-up tables, ``deidentify`` holds the
whitelist, ``quarantine`` the closed list of reasons why a file is not used.
"""

from nc_medfl.data.dicom.quarantine import OUTCOMES, REMEDIES, Outcome, Rejected
from nc_medfl.data.dicom.reader import DEFAULT_POLICY, Policy, read_radiograph

__all__ = ["DEFAULT_POLICY", "OUTCOMES", "REMEDIES", "Outcome", "Policy", "Rejected", "read_radiograph"]
