"""The sources that there are, and what is special about each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from nc_medfl.data.sources.base import SourceKind
from nc_medfl.data.sources.chexpert import chexpert_table
from nc_medfl.data.sources.choices import LabelChoices
from nc_medfl.data.sources.medmnist import medmnist_table
from nc_medfl.data.sources.mimic import mimic_table
from nc_medfl.data.sources.padchest import padchest_table
from nc_medfl.data.sources.rsna import rsna_table
from nc_medfl.data.sources.tables import read_table
from nc_medfl.data.sources.vindr import vindr_table
from nc_medfl.errors import UserError
from nc_medfl.mistakes import nearest
from nc_medfl.plugins import load_plugin, names_with_plugins

#: Names of pictures end so, in lower case.
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".nii", ".nii.gz")


def _plain(choices: LabelChoices) -> pd.DataFrame:
    return read_table(choices.table)


@dataclass(frozen=True)
class Source:
    """A kind of source.

    Attributes:
        about: what it is, for people.
        kind: which reader its images need; None: DICOM or pictures, whichever lie in the folder.
        suffixes: how the names of its images end; any, where empty.
        table: brings its label table into one row an image, or several rows that can be merged.
        published: whether a label map comes with the package.
        label_map: the file of its label map, where it brings its own.
        metadata: whether it has a second table, which ``--metadata`` names.
        readers: whether several people read each image, so that ``--agreement`` matters.
        public: whether anybody may have its images, so that keys need no secret.
        splits: whether its keys say which split an image is in.
    """

    about: str
    kind: SourceKind | None
    suffixes: tuple[str, ...] = ()
    table: Callable[[LabelChoices], pd.DataFrame] = _plain
    published: bool = True
    label_map: Path | None = None
    metadata: bool = False
    readers: bool = False
    public: bool = False
    splits: bool = False


#: Those of this package; :func:`get_source` knows those of plug-ins too.
SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "dicom": Source("a folder of DICOM files and any CSV", "dicom", published=False),
        "folder": Source("pictures (PNG, JPEG, TIFF, NIfTI) and any CSV", "picture", PICTURES, published=False),
        "nih": Source("NIH ChestX-ray14", "picture", (".png",), public=True),
        "chexpert": Source("CheXpert", "picture", (".jpg", ".jpeg", ".png"), chexpert_table),
        "mimic": Source("MIMIC-CXR-JPG, or MIMIC-CXR", None, (), mimic_table, metadata=True),
        "padchest": Source("PadChest", "picture", (".png",), padchest_table),
        "vindr": Source("VinDr-CXR", None, (), vindr_table, readers=True),
        "rsna": Source("RSNA Pneumonia Detection Challenge", None, (), rsna_table, metadata=True),
        "medmnist": Source("ChestMNIST", "picture", (".npz",), medmnist_table, public=True, splits=True),
    }
)


def source_names() -> list[str]:
    """Names of all sources, with those of plug-ins."""
    return names_with_plugins("sources", tuple(SOURCES))


def has_source(name: str) -> bool:
    """Whether there is a source of this name here."""
    return name in SOURCES or name in source_names()


def get_source(name: str) -> Source:
    """A source by its name.

    Raises:
        UserError: if there is none, or if it is a plug-in's and can't be used.
    """
    if name in SOURCES:
        return SOURCES[name]
    found = load_plugin("sources", name, Source, SOURCES)
    if found is None:
        near = nearest(name, source_names())
        hint = f" Did you mean '{near}'?" if near else ""
        raise UserError(f"--source {name}: there are {', '.join(source_names())}.{hint}")
    return found
