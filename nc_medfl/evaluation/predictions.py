"""A table of predictions, of any model: one row an image, a label and a score a finding, as CSV or Parquet."""

from __future__ import annotations

import csv
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.errors import UserError
from nc_medfl.evaluation.decide import SiteScores
from nc_medfl.evaluation.patients import ScoredSplit, pooled_arrays

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]

REQUIRED = ("sample_id", "patient_key", "site", "split")
OPTIONAL = ("sex", "age", "view", "maker")
SPLITS = ("train", "val", "test")
LABEL, SCORE = "label:", "score:"
_KINDS = (("val", "validation"), ("test", "test"))
_RESERVED_SITES = ("all", "pooled")
_RESERVED_FINDINGS = ("macro", "micro")
_LONGEST_NAME = 200
_BOOLEANS = {"true": 1, "false": 0}


@dataclass(frozen=True, eq=False)
class Predictions:
    """Scores beside labels, of ``N`` images and ``C`` findings.

    Attributes:
        sample_id: of each image, unique at its site, ``[N]``.
        patient: a number a patient, ``[N]``; equal keys at two sites are two patients.
        site: a number into ``sites``, ``[N]``.
        sites: names, sorted.
        split: ``train``, ``val`` or ``test``, ``[N]``.
        scores: probabilities, ``[N, C]``.
        labels: 1, 0 or NaN (unknown), ``[N, C]``.
        findings: names of the ``C`` columns.
        sex: as the table gives it, ``[N]``, ``""`` where unknown; None without the column.
        age: years, ``[N]``, NaN where unknown; None without the column.
        view: as ``sex``.
        maker: of the scanner, as ``sex``.
        remarks: what was left out or looks wrong in the table, in sentences without an identifier.
    """

    sample_id: Texts
    patient: Codes
    site: Codes
    sites: tuple[str, ...]
    split: Texts
    scores: Floats
    labels: Floats
    findings: tuple[str, ...]
    sex: Texts | None = None
    age: Floats | None = None
    view: Texts | None = None
    maker: Texts | None = None
    remarks: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.sample_id)

    def where(self, rows: npt.NDArray[np.bool_] | Codes) -> Predictions:
        """The same table with some rows only; names and codes stay.

        Args:
            rows: a mask ``[N]``, or the numbers of rows in the wanted order.
        """
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        cut: dict[str, Any] = {k: v[rows] if isinstance(v, np.ndarray) else v for k, v in named.items()}
        return replace(self, **cut)

    def by_site(self) -> dict[str, SiteScores]:
        """Validation and test scores of each site that has a test row, with what is known of its test patients."""
        found: dict[str, SiteScores] = {}
        for site in self.sites:
            validation, test = self.of(site=site, split="val"), self.of(site=site, split="test")
            if not len(test):
                continue
            known = {name: values for name in OPTIONAL if (values := getattr(test, name)) is not None}
            found[site] = SiteScores(validation._scored(), test._scored(), known)
        return found

    def _scored(self) -> ScoredSplit:
        return ScoredSplit(self.scores, self.labels, pd.factorize(self.patient)[0])

    def of(self, *, split: str | None = None, site: str | None = None) -> Predictions:
        """The rows of a split, a site, or both; None means any."""
        rows = np.ones(len(self), dtype=bool)
        if split is not None:
            rows &= self.split == split
        if site is not None:
            rows &= self.site == self.sites.index(site)
        return self.where(rows)


def from_sites(sites: Mapping[str, SiteScores], findings: Sequence[str]) -> Predictions:
    """Scores that were worked out here, as a table; images are numbered within their site and split."""
    names = tuple(sorted(sites))
    parts = [(at, split, getattr(sites[n], kind)) for at, n in enumerate(names) for split, kind in _KINDS]
    sizes = [len(part.scores) for _, _, part in parts]
    scores, labels, patients = pooled_arrays([part for _, _, part in parts])
    return Predictions(
        sample_id=np.array([f"{s}-{k}" for (_, s, _), n in zip(parts, sizes, strict=True) for k in range(n)], object),
        patient=patients,
        site=np.repeat(np.array([at for at, _, _ in parts], dtype=np.int64), sizes),
        sites=names,
        split=np.repeat(np.array([split for _, split, _ in parts], dtype=object), sizes),
        scores=scores,
        labels=labels,
        findings=tuple(findings),
    )


def read_predictions(path: Path) -> Predictions:
    """Read and check a table of predictions.

    Args:
        path: ``.csv`` or ``.parquet``. Columns ``sample_id``, ``patient_key``, ``site``, ``split``; a
            ``label:<finding>`` (1, 0 or blank for unknown) and ``score:<finding>`` (a probability) for each
            finding; optional ``sex``, ``age``, ``view``, ``maker``.

    Raises:
        UserError: if the file can't be read or a cell breaks a rule; it names the column and the row, and never
            what identifies a patient.
    """
    table, first = _read_table(path)
    findings, others = _check_columns(table, path)
    if not len(table):
        raise UserError(f"{path}: no rows. Give a table with a row for each image.")
    place = _Place(path, first)
    texts = {name: _texts(table[name], name, place) for name in REQUIRED}
    for name, values in texts.items():
        place.refuse(values == "", f"'{name}' is blank", "Fill it in")
    place.refuse(~np.isin(texts["split"], SPLITS), "'split' is none of train, val, test", "Use one of them")
    sites, site = np.unique(texts["site"].astype(str), return_inverse=True)
    for name in sites:
        _check_name(str(name), "site", _RESERVED_SITES, path)
    patient = _codes(site, texts["patient_key"])
    samples = pd.Series(_codes(site, texts["sample_id"]))
    place.refuse(samples.duplicated().to_numpy(), "this sample_id stands at its site already", "Keep one row an image")
    remarks = [f"{path.name}: left out columns that mean nothing here: {', '.join(map(_shown, others))}."]
    remarks = [*remarks[: len(others)][:1], *_shared_patients(path, patient, texts["split"])]
    labels = [_labels(table[LABEL + f], LABEL + f, place) for f in findings]
    scores = [_scores(table[SCORE + f], known, SCORE + f, place) for f, known in zip(findings, labels, strict=True)]
    return Predictions(
        sample_id=texts["sample_id"],
        patient=patient,
        site=site.astype(np.int64),
        sites=tuple(str(name) for name in sites),
        split=texts["split"],
        scores=np.stack(scores, axis=1),
        labels=np.stack(labels, axis=1),
        findings=findings,
        age=_ages(table["age"], place) if "age" in table else None,
        remarks=tuple(remarks),
        **{n: _texts(table[n], n, place) for n in ("sex", "view", "maker") if n in table},
    )


@dataclass(frozen=True)
class _Place:
    """Where a cell stands: the file, and the number its first row has there."""

    path: Path
    first: int

    def refuse(self, wrong: npt.NDArray[np.bool_], what: str, remedy: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong)) + self.first
            more = int(wrong.sum()) - 1
            others = f" (and {more} more)" if more else ""
            raise UserError(f"{self.path}, row {row}{others}: {what}. {remedy}.")


def _read_table(path: Path) -> tuple[pd.DataFrame, int]:
    """The table, and the number of its first row (a header is row 1 of a CSV)."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".parquet"):
        raise UserError(f"{path}: a table of predictions is .csv or .parquet. Give one of them.")
    try:
        if kind == ".parquet":
            table = pd.read_parquet(path)
            return table.reset_index() if any(table.index.names) else table, 1
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream)
            header = next(lines, [])
            # pandas fills a short row up, and would make a lost label an unknown one.
            ragged = np.array([len(line) not in (0, len(header)) for line in lines], dtype=bool)
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise UserError(f"{path}: two columns '{twice[0]}'. Keep one.")
        _Place(path, 2).refuse(ragged, f"it has not the {len(header)} cells of the header", "Write it again")
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", index_col=False)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. Give --predictions a CSV or Parquet table.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8. Save it as CSV in UTF-8.") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or 'not a table'}). Give another file.") from error
    except (ValueError, csv.Error, pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise UserError(f"{path}: not a {kind[1:]} table with a cell for each column. Write it again.") from error
    return table, 2


def _shared_patients(path: Path, patient: Codes, split: Texts) -> list[str]:
    """A remark where thresholds or models were chosen on patients that they are tested on."""
    elsewhere = np.isin(patient, patient[split != "test"]) & (split == "test")
    n = len(np.unique(patient[elsewhere]))
    some = "a test patient stands" if n == 1 else f"{n} test patients stand"
    remedy = "numbers on them flatter the model. Split by patient"
    return [f"{path.name}: {some} in another split too; {remedy}."] if n else []


def _check_columns(table: pd.DataFrame, path: Path) -> tuple[tuple[str, ...], list[str]]:
    """The findings, and columns that mean nothing here."""
    names = [str(name) for name in table.columns]
    for name in REQUIRED:
        if name not in names:
            raise UserError(f"{path}: no column '{name}'. A table of predictions has {', '.join(REQUIRED)}.")
    findings = tuple(n.removeprefix(SCORE) for n in names if n.startswith(SCORE))
    others = [n for n in names if n not in (*REQUIRED, *OPTIONAL) and not n.startswith((LABEL, SCORE))]
    for name in others:
        if name.strip().lower().startswith(("label", "score")):
            raise UserError(f"{path}: unknown column {_shown(name)}. Leave it out, or name it label:... or score:...")
    for name in names:
        if name.startswith(LABEL) and name.removeprefix(LABEL) not in findings:
            raise UserError(f"{path}: {_shown(name)} has no score: column. Add it, or leave the label out.")
    if not findings:
        raise UserError(f"{path}: no column 'score:<finding>'. Add one for each finding.")
    for finding in findings:
        _check_name(finding, "finding", _RESERVED_FINDINGS, path)
        if LABEL + finding not in names:
            raise UserError(f"{path}: {_shown(SCORE + finding)} has no label: column. Add it; blank means unknown.")
    return findings, others


def _check_name(name: str, what: str, reserved: Sequence[str], path: Path) -> None:
    if name.strip() != name or not name:
        raise UserError(f"{path}: the {what} name {_shown(name)} is blank or has blanks around it. Trim it.")
    if name in reserved:
        raise UserError(f"{path}: a {what} cannot be called '{name}', which means something else in the results.")
    if len(name) > _LONGEST_NAME or any(unicodedata.category(c).startswith("C") for c in name):
        raise UserError(f"{path}: the {what} name {_shown(name)} is too long or has control characters. Rename it.")


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 40 else name[:40] + "...")


def _codes(site: npt.NDArray[np.integer], keys: Texts) -> Codes:
    """A number for each pair of a site and a key, in order of first appearance."""
    codes, known = pd.factorize(keys)
    pairs, _ = pd.factorize(site.astype(np.int64) * len(known) + codes)
    return np.asarray(pairs, dtype=np.int64)


def _texts(column: pd.Series, name: str, place: _Place) -> Texts:
    values: Iterable[object] = column.astype(object).where(column.notna(), "")
    texts = np.array([str(value).strip() for value in values], dtype=object)
    control = np.array([not text.isprintable() for text in texts], dtype=bool)
    place.refuse(control, f"'{name}' has control characters", "Take them out")
    return texts


def _numbers(column: pd.Series, name: str, place: _Place, rule: str) -> Floats:
    """Values as numbers, NaN where blank."""
    blank = column.isna() | (column.astype(str).str.strip() == "")
    values = pd.to_numeric(column.astype(object).where(~blank, None), errors="coerce").astype("float64")
    place.refuse((values.isna() & ~blank).to_numpy(), f"{_shown(name)} must be {rule}", "Correct it")
    return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))


def _labels(column: pd.Series, name: str, place: _Place) -> Floats:
    rule = "1, 0 or blank (unknown)"
    # A column of booleans is written to CSV as these words.
    words = column.astype(object).map(lambda cell: _BOOLEANS.get(str(cell).strip().lower(), cell))
    values = _numbers(words, name, place, rule)
    place.refuse(~np.isnan(values) & (values != 0) & (values != 1), f"{_shown(name)} must be {rule}", "Correct it")
    return values


def _scores(column: pd.Series, labels: Floats, name: str, place: _Place) -> Floats:
    rule = "a probability in [0, 1]"
    values = _numbers(column, name, place, rule)
    # Where the label is unknown the score takes part in nothing, so it may lack.
    values = np.where(np.isnan(values) & np.isnan(labels), 0.0, values)
    place.refuse(~((values >= 0) & (values <= 1)), f"{_shown(name)} must be {rule}", "Correct it")
    return values


def _ages(column: pd.Series, place: _Place) -> Floats:
    rule = "years in 0 to 130, or blank"
    values = _numbers(column, "age", place, rule)
    place.refuse(~np.isnan(values) & ~((values >= 0) & (values <= 130)), f"'age' must be {rule}", "Correct it")
    return values
