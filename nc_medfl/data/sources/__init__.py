"""Where images and labels come from. A source opens its label table and lists its files; a worker reads them."""

from nc_medfl.data.sources.base import SourceData, SourceFile, list_files, read_table
from nc_medfl.data.sources.dicom import open_dicom
from nc_medfl.data.sources.nih import open_nih

__all__ = ["SourceData", "SourceFile", "list_files", "open_dicom", "open_nih", "read_table"]
