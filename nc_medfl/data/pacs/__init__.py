"""Radiographs straight from a PACS by DICOMweb: asked for by QIDO-RS, fetched unchanged by WADO-RS (DICOM PS3.18).

``query`` holds the filters, ``address`` where the archive is and who asks, ``client`` the connection with its
retries and its bound on requests at once, ``listing`` which images match, ``plan`` what was found so far, ``fetch``
the resumable download. Import
it where it is used: the HTTP libraries are slow to import.
"""

from nc_medfl.data.pacs.fetch import FetchSummary, fetch, release
from nc_medfl.data.pacs.query import DEFAULT_MODALITIES, Filters, read_accessions
from nc_medfl.data.pacs.settings import PacsSettings

__all__ = [
    "DEFAULT_MODALITIES",
    "FetchSummary",
    "Filters",
    "PacsSettings",
    "fetch",
    "read_accessions",
    "release",
]
