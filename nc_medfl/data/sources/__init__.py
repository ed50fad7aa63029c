"""Where images and labels come from. A source opens its label table and lists its files; a worker reads them."""

from __future__ import annotations

from nc_medfl.data.settings import PrepareSettings
from nc_medfl.data.sources.base import SourceData, SourceFile, list_files, read_table
from nc_medfl.data.sources.dicom import open_dicom
from nc_medfl.data.sources.nih import open_nih
from nc_medfl.labels import Vocabulary

__all__ = ["SourceData", "SourceFile", "list_files", "open_dicom", "open_nih", "open_source", "read_table"]


def open_source(settings: PrepareSettings, vocabulary: Vocabulary) -> SourceData:
    """Open the source that the settings name.

    Raises:
        UserError: if the folder, the table or the map can't be used.
    """
    if settings.source == "nih":
        return open_nih(
            settings.images,
            settings.labels,
            vocabulary,
            label_map=settings.label_map,
            image_column=settings.image_column,
            uncertain=settings.uncertain,
        )
    return open_dicom(
        settings.images,
        settings.labels,
        vocabulary,
        label_map=settings.label_map,
        image_column=settings.image_column,
        ignore_columns=settings.ignore_columns,
        uncertain=settings.uncertain,
    )
