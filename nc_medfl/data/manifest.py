"""The manifest: one row an image, typed, without any identifier of a patient.

Labels stand in ``label:<finding>`` columns as 1, 0 or null (unknown), what the source said in
``raw:<finding>``. ``patient_key`` and ``study_key`` are keyed hashes (HMAC-SHA256, the site's salt).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.errors import UserError
from nc_medfl.labels import NO_FINDING

SCHEMA_VERSION = 1
SPLITS = ("train", "val", "test")
LABEL = "label:"
RAW = "raw:"

#: Columns every manifest has, in this order, before its label and raw columns.
COLUMNS: dict[str, str] = {
    "sample_id": "string",
    "patient_key": "string",
    "study_key": "string",
    "site": "string",
    "split": "string",
    "source_sha256": "string",
    "pixel_sha256": "string",
    "shard": "int32",
    "row": "int32",
    "modality": "string",
    "view": "string",
    "rows": "int32",
    "cols": "int32",
    "spacing": "float64",  # mm a pixel along the rows of the source, NaN where unknown
    "bits": "int16",
    "photometric": "string",
    "inverted": "boolean",
    "transfer_syntax": "string",
    "lossy": "boolean",
    "voi_source": "string",
    "pad_box": "string",  # "top,left,height,width" of the picture inside its square
    "burned_in": "string",  # yes, no or unknown
    "sex": "string",  # F, M, O or empty
    "age": "float64",  # years, capped at 90, NaN where unknown
    "settings_hash": "string",
}

#: Columns that a manifest has only where they were asked for.
OPTIONAL_COLUMNS: dict[str, str] = {
    "study_date_shifted": "string",  # YYYYMMDD, moved by a secret number of days, the same for all of a patient
}


def keyed_hash(salt: bytes, kind: str, identifier: str) -> str:
    """Replace an identifier by a keyed hash that only the holder of the salt can recompute.

    Args:
        salt: the site's secret, 16 bytes or more.
        kind: what is hashed (``patient``, ``study``, ``sample``), so that equal texts differ by kind.
        identifier: the identifier as the source gives it.

    Returns:
        32 hexadecimal characters (128 bits of HMAC-SHA256).
    """
    return hmac.new(salt, f"{kind}\0{identifier}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:32]


def label_columns(findings: Sequence[str]) -> list[str]:
    """Names of the label columns of some findings, ``No Finding`` last."""
    return [f"{LABEL}{name}" for name in (*findings, NO_FINDING)]


def normalise(
    frame: pd.DataFrame, findings: Sequence[str], wanted: Callable[[str], bool] | None = None
) -> pd.DataFrame:
    """Put columns in the manifest's order and types, filling those that are absent with nulls.

    Args:
        frame: manifest rows.
        findings: of the label columns.
        wanted: which columns there are to be; all if None.

    Raises:
        UserError: if ``sample_id``, ``patient_key``, ``shard`` or ``row`` is missing or a label is not 0, 1 or null.
    """
    chosen = wanted or _any
    missing = [c for c in ("sample_id", "patient_key", "shard", "row") if chosen(c) and c not in frame]
    if missing:
        raise UserError(f"manifest: no column {', '.join(missing)}. Prepare the store again.")
    out = pd.DataFrame(index=frame.index)
    asked_for = {name: dtype for name, dtype in OPTIONAL_COLUMNS.items() if name in frame}
    for name, dtype in {**COLUMNS, **asked_for}.items():
        if chosen(name):
            values = frame[name] if name in frame else pd.Series(pd.NA, index=frame.index, dtype="object")
            out[name] = _typed(values, dtype)
    for column in filter(chosen, label_columns(findings)):
        out[column] = _checked_labels(
            frame[column] if column in frame else pd.Series(np.nan, index=frame.index), column
        )
    for column in frame.columns:
        if column.startswith(RAW) and chosen(column):
            out[column] = frame[column].astype("string")
    table: pd.DataFrame = out.reset_index(drop=True)
    return table


def _any(_column: str) -> bool:
    return True


def _typed(values: pd.Series, dtype: str) -> pd.Series:
    if dtype.startswith("int"):
        values = pd.to_numeric(values, errors="raise").fillna(-1)
    elif dtype.startswith("float"):
        values = pd.to_numeric(values, errors="coerce")
    return values.astype(np.dtype(dtype) if dtype[0] in "if" else pd.api.types.pandas_dtype(dtype))


def _checked_labels(values: pd.Series, column: str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce").astype("float32")
    wrong = numbers.notna() & ~numbers.isin([0.0, 1.0])
    if wrong.any():
        raise UserError(f"manifest: column {column} holds {numbers[wrong].iloc[0]:g}; a label is 0, 1 or empty.")
    return numbers


def label_matrix(frame: pd.DataFrame, findings: Sequence[str]) -> npt.NDArray[np.float32]:
    """Labels as ``[N, C]`` float32 with NaN for unknown, in the order of ``findings``."""
    columns = [f"{LABEL}{name}" for name in findings]
    matrix: npt.NDArray[np.float32] = frame[columns].to_numpy(dtype=np.float32, na_value=np.nan)
    return matrix
