"""A store in formats that other programs read: PNG, NIfTI, and de-identified DICOM made from the originals.

An export lies in ``export/<kind>/`` of the store with a ``manifest.csv`` beside the files, which are called by
``sample_id``. No federation reads it. Every file is read back by another reader than wrote it.
"""

from __future__ import annotations

from nc_medfl.data.export.folder import EXPORT, ExportSummary, keep_samples
from nc_medfl.data.export.pictures import export_nifti, export_png

__all__ = ["EXPORT", "ExportSummary", "export_nifti", "export_png", "keep_samples"]
