"""A plain table of anybody's predictions: a row an image, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.errors import UserError
from nc_medfl.evaluation.decide import ScoredSplit, SiteScores
from nc_medfl.evaluation.groups import ATTRIBUTES
from nc_medfl.labels import Vocabulary

LABEL, SCORE = "label:", "score:"
_NEEDED = ("sample_id", "patient_key", "site", "split")
_SPLITS = ("train", "val", "test")
_REMEDY = "See docs/how-to/thresholds.md for the columns"


def read_predictions(path: Path) -> tuple[dict[str, SiteScores], Vocabulary]:
    """Read a table of predictions.

    Args:
        path: CSV or Parquet with ``sample_id``, ``patient_key``, ``site``, ``split`` (``val``, ``test``; ``train`` is
            left out), ``label:<name>`` (1, 0 or blank for unknown) and ``score:<name>`` (a probability, or blank) for
            each finding, and perhaps ``sex``, ``age``, ``view`` and ``maker``.

    Returns:
        Scores by site, and the findings in the table's order. Equal patient keys at two sites are two patients.

    Raises:
        UserError: naming file, column and first row at fault.
    """
    table = _read(path)
    findings = _findings(table, path)
    for name in _NEEDED:
        _need_filled(table, name, path)
    _check_rows(table, path)
    labels = np.stack([_numbers(table, LABEL + name, path, (0.0, 1.0)) for name in findings], axis=1)
    scores = np.stack([_numbers(table, SCORE + name, path, None) for name in findings], axis=1)
    sites: dict[str, SiteScores] = {}
    for site in sorted(set(table["site"])):
        here = (table["site"] == site).to_numpy()
        patients = pd.factorize(table["patient_key"].where(here))[0]
        parts = {split: here & (table["split"] == split).to_numpy() for split in ("val", "test")}
        splits = [ScoredSplit(scores[rows], labels[rows], patients[rows]) for rows in parts.values()]
        attributes: dict[str, npt.ArrayLike] = {
            name: table[name].to_numpy(dtype=object)[parts["test"]] for name in ATTRIBUTES if name in table
        }
        sites[site] = SiteScores(splits[0], splits[1], attributes)
    return sites, Vocabulary(path.stem, findings)


def _read(path: Path) -> pd.DataFrame:
    """The table as texts, blank where nothing is."""
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            found = pd.read_parquet(path)
            table = found.astype(object).where(found.notna(), "").astype(str)
        else:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. Give --predictions a table of predictions.") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or 'damaged'}). Give a CSV or Parquet file."
        ) from error
    except Exception as error:  # pandas and pyarrow raise many kinds for what is no such table
        raise UserError(f"{path}: not a CSV or Parquet table. {_REMEDY}.") from error
    table.columns = pd.Index([str(name).strip() for name in table.columns])
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise UserError(f"{path}: the column '{repeated[0]}' stands twice. Name each once.")
    for name in _NEEDED:
        if name not in table:
            raise UserError(f"{path}: no column '{name}' (it has: {', '.join(table.columns)}). {_REMEDY}.")
    if table.empty:
        raise UserError(f"{path}: no rows. Give a table with a row an image.")
    stripped: pd.DataFrame = table.apply(lambda column: column.str.strip())
    return stripped


def _findings(table: pd.DataFrame, path: Path) -> tuple[str, ...]:
    labelled = [name.removeprefix(LABEL) for name in table.columns if name.startswith(LABEL)]
    scored = [name.removeprefix(SCORE) for name in table.columns if name.startswith(SCORE)]
    if not labelled and not scored:
        raise UserError(f"{path}: no column 'label:<finding>' and 'score:<finding>'. {_REMEDY}.")
    for name in [*labelled, *scored]:
        if (name in labelled) != (name in scored):
            lacking = SCORE if name in labelled else LABEL
            raise UserError(f"{path}: no column '{lacking}{name}' beside the other of '{name}'. Add it.")
        if name in ("macro", "micro", "all"):
            raise UserError(f"{path}: a finding is called '{name}', which names a mean in the results. Rename it.")
    return tuple(labelled)


def _need_filled(table: pd.DataFrame, name: str, path: Path) -> None:
    blank = np.flatnonzero((table[name] == "").to_numpy())
    if len(blank):
        raise UserError(f"{path}, row {blank[0] + 1}: '{name}' is blank. Fill it in every row.")


def _check_rows(table: pd.DataFrame, path: Path) -> None:
    wrong = np.flatnonzero(~table["split"].isin(_SPLITS).to_numpy())
    if len(wrong):
        given = table["split"].iloc[wrong[0]][:20]
        raise UserError(f"{path}, row {wrong[0] + 1}: split '{given}' is none of {', '.join(_SPLITS)}. Mend it.")
    if not (table["split"] == "test").any():
        raise UserError(f"{path}: no row with split 'test', so nothing to measure. Add the test images.")
    again = np.flatnonzero(table.duplicated(["site", "sample_id"]).to_numpy())
    if len(again):
        raise UserError(f"{path}, row {again[0] + 1}: its sample_id stands twice at its site. Keep one row an image.")
    for name in ("all", "pooled"):
        if (table["site"] == name).any():
            raise UserError(f"{path}: a site is called '{name}', which has a meaning in the results. Rename it.")


def _numbers(table: pd.DataFrame, name: str, path: Path, allowed: Sequence[float] | None) -> npt.NDArray[np.float64]:
    """A column of numbers, NaN where blank: some that are allowed, or any from 0 to 1."""
    blank = (table[name] == "").to_numpy()
    values = pd.to_numeric(table[name].where(~blank, None), errors="coerce").to_numpy(dtype=np.float64)
    good = np.isin(values, allowed) if allowed is not None else (values >= 0) & (values <= 1)
    wrong = np.flatnonzero(~blank & ~good)
    if len(wrong):
        what = " or ".join(f"{value:g}" for value in allowed) if allowed is not None else "a number from 0 to 1"
        raise UserError(f"{path}, row {wrong[0] + 1}: '{name}' is not {what}. Mend it; leave it blank if unknown.")
    result: npt.NDArray[np.float64] = values
    return result
