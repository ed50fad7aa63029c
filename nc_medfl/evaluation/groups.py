"""Groups of a site's patients, and ``fairness.csv``: who is served worst, in which group and at which site."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.metrics.classification import METRICS
from nc_medfl.metrics.fairness import LESS_IS_BETTER, Estimate, Gap, age_bands, compare

ALL, POOLED = "all", "pooled"
AGE = "age"
#: What patients and images can be grouped by, in the order of tables.
ATTRIBUTES = ("sex", AGE, "view", "maker")
#: Sites are compared as groups are.
SITE = "site"

#: Columns of ``fairness.csv``, in order.
FAIRNESS_COLUMNS = (
    "run",
    "model",
    "site",
    "split",
    "attribute",
    "finding",
    "metric",
    "worst_group",
    "worst",
    "worst_low",
    "worst_high",
    "best_group",
    "best",
    "best_low",
    "best_high",
    "gap",
    "gap_low",
    "gap_high",
    "spread",
    "n_groups",
    "n_withheld",
    "reason",
)

WITHHELD = "withheld: fewer than {} patients"
FEW_IN_GROUP = "withheld by the site: too few positives in this group"
_WITHHELD_START = WITHHELD.split("{", maxsplit=1)[0]
#: The F1 of calling all positive says nothing of a model.
_COMPARED = tuple(metric for metric in METRICS if metric != "f1_all_positive")

Bools = npt.NDArray[np.bool_]


def members(attributes: Mapping[str, npt.ArrayLike]) -> Iterator[tuple[str, Bools]]:
    """The groups and who is in them; images of which an attribute is not known are in none of its groups.

    Args:
        attributes: by name, a value an image: texts, or years for ``age``; empty, None or NaN where unknown.

    Yields:
        Group ids as in ``sex=F`` and ``age=60-69``, with a mask ``[N]``.
    """
    for name in ATTRIBUTES:
        if name in attributes:
            values = _texts(name, attributes[name])
            for value in sorted(set(values.tolist()) - {""}):
                yield f"{name}={value}", values == value


def _texts(name: str, values: npt.ArrayLike) -> npt.NDArray[np.str_]:
    if name == AGE:
        return age_bands(pd.to_numeric(pd.Series(np.asarray(values)), errors="coerce").to_numpy(dtype=float))
    given = pd.Series(np.asarray(values, dtype=object))
    texts: npt.NDArray[np.str_] = given.where(given.notna(), "").astype(str).str.strip().to_numpy(dtype=str)
    return texts


def rare_in_groups(
    attributes: Mapping[str, npt.ArrayLike], labels: npt.NDArray[np.float64], min_positives: int
) -> dict[str, Bools]:
    """Findings to withhold in each group: those with few positives there.

    Where that would be a single group of an attribute, the next smallest is withheld too; else all patients less the
    other groups would give it away. Images of which the attribute is not known count as a group that is withheld.

    Args:
        attributes: as for :func:`members`.
        labels: of the images, ``[N, C]``, NaN unknown.
        min_positives: smallest count of positives that may be told.

    Returns:
        By group id, ``[C]``.
    """
    out: dict[str, Bools] = {}
    for name in attributes:
        masks = dict(members({name: attributes[name]}))
        if not masks:
            continue
        counts = np.stack([(labels[mask] == 1).sum(axis=0) for mask in masks.values()])
        left = (labels[~np.any(list(masks.values()), axis=0)] == 1).sum(axis=0)
        hidden = counts < min_positives
        alone = ((hidden & (counts > 0)).sum(axis=0) == 1) & (left == 0)
        told = np.where(hidden, np.iinfo(np.int64).max, counts)
        hidden[told.argmin(axis=0)[alone], np.flatnonzero(alone)] = True
        out |= dict(zip(masks, hidden, strict=True))
    return out


def group_rows(
    attributes: Mapping[str, npt.ArrayLike],
    patients: npt.ArrayLike,
    findings: Sequence[str],
    evaluate: Callable[[Bools, str], pd.DataFrame],
    *,
    about: Mapping[str, str],
    min_group: int = 20,
) -> list[pd.DataFrame]:
    """Rows of ``metrics.csv`` for every group that is large enough, and rows that say so for the others.

    Args:
        attributes: as for :func:`members`.
        patients: of the images, ``[N]``.
        findings: names of the findings.
        evaluate: gives the rows of some images, as a group of a name.
        about: ``run``, ``model``, ``site`` and ``split`` of the rows.
        min_group: a group of fewer patients is withheld.
    """
    keys = np.asarray(patients)
    parts = []
    for group, mask in members(attributes):
        if len(np.unique(keys[mask])) >= min_group:
            parts.append(evaluate(mask, group))
            continue
        row: dict[str, object] = {**about, "group": group, "metric": "auc", "value": None, "low": None, "high": None}
        row |= {"n_positive": 0, "n_annotated": 0, "reason": WITHHELD.format(min_group)}
        parts.append(pd.DataFrame([{**row, "finding": name} for name in (*findings, "macro", "micro")]))
    return parts


def fairness_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Rows of ``fairness.csv``, from nothing but rows of ``metrics.csv``.

    Groups are compared within a site; sites are compared with each other (attribute ``site``, site ``all``), where
    there are two or more.

    Args:
        metrics: rows of sites and groups.
    """
    # Rows that were put together from several tables may share their numbers.
    metrics = metrics[metrics["metric"].isin(_COMPARED)].reset_index(drop=True)
    attribute = metrics["group"].str.partition("=")[0]
    grouped = metrics[attribute != ALL].assign(attribute=attribute, member=metrics["group"])
    own = metrics[(metrics["group"] == ALL) & ~metrics["site"].isin([ALL, POOLED])]
    sites = own.assign(attribute=SITE, member=own["site"], site=ALL)
    if own["site"].nunique() < 2:
        sites = sites.iloc[:0]
    keys = ["run", "model", "site", "split", "attribute", "finding"]
    rows: list[dict[str, object]] = []
    together: pd.DataFrame = pd.concat([grouped, sites], ignore_index=True)
    for key, part in together.groupby(keys, sort=False):
        about = dict(zip(keys, key, strict=True))
        hidden = part["reason"].str.startswith(_WITHHELD_START) | part["reason"].str.startswith("withheld by")
        n_withheld = int(part.loc[hidden, "member"].nunique())
        for metric in _COMPARED:
            some = part[part["metric"] == metric]
            if len(some):
                rows.append({**about, "metric": metric, **_row(some, metric), "n_withheld": n_withheld})
    table: pd.DataFrame = pd.DataFrame(rows, columns=list(FAIRNESS_COLUMNS))
    return table


def _row(some: pd.DataFrame, metric: str) -> dict[str, object]:
    columns = (some[name].tolist() for name in ("member", "value", "low", "high"))
    estimates = [Estimate(*values) for values in zip(*columns, strict=True)]
    found = compare(estimates, less_is_better=metric in LESS_IS_BETTER)
    row: dict[str, object] = {}
    for name, group in (("worst", found.worst), ("best", found.best)):
        if group is not None:
            row |= {
                f"{name}_group": group.name,
                name: group.value,
                f"{name}_low": group.low,
                f"{name}_high": group.high,
            }
    return row | _gap(found)


def _gap(found: Gap) -> dict[str, object]:
    return {
        "gap": found.gap,
        "gap_low": found.low,
        "gap_high": found.high,
        "spread": found.spread,
        "n_groups": found.n_groups,
        "reason": found.reason,
    }
