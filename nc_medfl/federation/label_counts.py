"""How often each finding stands at a site, and with which others, as counts that may leave it.

A count is of images; what is small is judged by patients, since several images may be one patient's. Counts over 1 to
``minimum - 1`` patients are withheld, and so is what would give them away: of a finding's positives, negatives and
unknowns a second one; of a pair of findings the count together, where together, one without the other, or neither is
few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nc_medfl.data.quality.counts import MINIMUM, guarded
from nc_medfl.data.store import Store
from nc_medfl.labels import NO_FINDING

Bools = npt.NDArray[np.bool_]
Counts = dict[str, Any]

SPLITS = ("train", "val", "test")
STATES = ("n_positive", "n_negative", "n_unknown")
#: The split whose pairs of findings are counted: the one to be trained on.
PAIRS_OF = "train"


def site_counts(store: Store, min_positives: int = 0) -> Counts:
    """Counts of a site's labels that may leave it.

    Args:
        store: the site's.
        min_positives: the site's own ``privacy.min_positives``; the floor of ``MINIMUM`` holds whatever it is.

    Returns:
        JSON values: ``minimum``; ``rows`` by split and finding (``No Finding`` last) with counts, None where withheld;
        ``together``, ``[C, C]``, images of the training split with both findings, None where withheld.
    """
    minimum = max(min_positives, MINIMUM)
    labels = np.column_stack([store.labels(), store.manifest[f"label:{NO_FINDING}"].to_numpy(dtype=float)])
    patients = np.unique(store.manifest["patient_key"].to_numpy(dtype=str), return_inverse=True)[1]
    findings = (*store.vocabulary.findings, NO_FINDING)
    rows: list[Counts] = []
    for split in SPLITS:
        chosen = store.positions(split)
        rows += _split_rows(split, findings, labels[chosen], patients[chosen], minimum)
    train = store.positions(PAIRS_OF)
    positive = labels[train][:, : len(store.vocabulary)] == 1
    told = [row["n_positive"] is not None for row in rows if row["split"] == PAIRS_OF][: len(store.vocabulary)]
    return {"minimum": minimum, "rows": rows, "together": pairs(positive, patients[train], told, minimum)}


def _split_rows(
    split: str, findings: Sequence[str], labels: npt.NDArray[Any], patients: npt.NDArray[Any], minimum: int
) -> list[Counts]:
    n_patients = len(np.unique(patients))
    few = 0 < n_patients < minimum
    whole = {
        "split": split,
        "n_images": None if few else len(labels),
        "n_patients": None if few else n_patients,
    }
    rows = []
    for index, finding in enumerate(findings):
        values = labels[:, index]
        states = dict(zip(STATES, (values == 1, values == 0, np.isnan(values)), strict=True))
        shown = guarded({name: _patients_of(state, patients) for name, state in states.items()}, minimum)
        counts = {name: None if few or shown[name] is None else int(state.sum()) for name, state in states.items()}
        rows.append({**whole, "finding": finding, **counts})
    return rows


def pairs(positive: Bools, patients: npt.NDArray[Any], told: Sequence[bool], minimum: int) -> list[list[int | None]]:
    """Images with both of two findings.

    Args:
        positive: ``[N, C]``.
        patients: a number for the patient of each image, ``[N]``.
        told: of each finding, whether its count of positives is.
        minimum: fewest patients of a count that is shown.

    Returns:
        ``[C, C]``, symmetric, the counts of single findings on the diagonal; None where withheld.
    """
    out: list[list[int | None]] = []
    for i in range(positive.shape[1]):
        out.append([])
        for j in range(positive.shape[1]):
            a, b = positive[:, i], positive[:, j]
            cells = (a & b, a & ~b, ~a & b, ~(a | b)) if i != j else ()
            hidden = any(0 < _patients_of(cell, patients) < minimum for cell in cells)
            out[i].append(None if hidden or not (told[i] and told[j]) else int((a & b).sum()))
    return out


def _patients_of(chosen: Bools, patients: npt.NDArray[Any]) -> int:
    return len(np.unique(patients[chosen]))


def check_counts(given: Any, findings: Sequence[str], max_samples: int) -> Counts:
    """Check what a site sent.

    Args:
        given: as read from JSON.
        findings: the vocabulary, in order.
        max_samples: no count may be more.

    Raises:
        ValueError: if it is not what :func:`site_counts` makes; the text holds no value of it.
    """
    wanted = [(split, finding) for split in SPLITS for finding in (*findings, NO_FINDING)]
    try:
        rows = [
            {name: row[name] for name in ("split", "finding", "n_images", "n_patients", *STATES)}
            for row in given["rows"]
        ]
        together = [list(line) for line in given["together"]]
        minimum = given["minimum"]
    except (TypeError, KeyError) as error:
        raise ValueError("its label counts can't be read") from error
    if [(row["split"], row["finding"]) for row in rows] != wanted:
        raise ValueError("its label counts are of other findings")
    if len(together) != len(findings) or any(len(line) != len(findings) for line in together):
        raise ValueError("its counts of pairs are of other findings")
    numbers = [row[name] for row in rows for name in ("n_images", "n_patients", *STATES)]
    numbers += [number for line in together for number in line]
    if type(minimum) is not int or not all(number is None or type(number) is int for number in numbers):
        raise ValueError("its label counts are not numbers of images")
    if not all(number is None or 0 <= number <= max_samples for number in [minimum, *numbers]):
        raise ValueError(f"its label counts are under 0, or over aggregation.max_samples ({max_samples})")
    if not all(_fits(row) for row in rows) or not _are_pairs_of(rows, together):
        raise ValueError("its label counts can't be: parts are more than the whole")
    return {"minimum": minimum, "rows": rows, "together": together}


def _fits(row: Counts) -> bool:
    """Whether a finding's counts, as far as they are told, are no more than the images that there are."""
    if row["n_images"] is None:
        return all(row[name] is None for name in ("n_patients", *STATES))
    most = max(row["n_patients"] or 0, sum(row[name] or 0 for name in STATES))
    return bool(most <= row["n_images"])


def _are_pairs_of(rows: Sequence[Counts], together: Sequence[Sequence[int | None]]) -> bool:
    """Whether no pair of findings is told of that is more than either of them."""
    single = [row["n_positive"] for row in rows if row["split"] == PAIRS_OF][: len(together)]
    return all(
        count is None or all(n is not None and count <= n for n in (single[i], single[j]))
        for i, line in enumerate(together)
        for j, count in enumerate(line)
    )


def table(sites: Mapping[str, Counts]) -> list[Counts]:
    """Rows of ``label_statistics.csv``: every site's, then ``all``, the sums of what is told.

    ``reason`` says what is withheld; for ``all``, by how many sites of those asked.
    """
    names = ("n_images", "n_patients", *STATES)
    rows = []
    for site, counts in sites.items():
        for row in counts["rows"]:
            hidden = any(row[name] is None for name in names)
            reason = f"counts over fewer than {counts['minimum']} patients are withheld" if hidden else ""
            rows.append({"site": site, **row, "reason": reason})
    for group in zip(*(counts["rows"] for counts in sites.values()), strict=True):
        total: Counts = {"site": "all", "split": group[0]["split"], "finding": group[0]["finding"]}
        total |= {name: sum(row[name] or 0 for row in group) for name in names}
        hidden_at = sum(any(row[name] is None for name in names) for row in group)
        total["reason"] = f"{hidden_at} of {len(group)} sites withhold some count" if hidden_at else ""
        rows.append(total)
    order = ("site", "split", "n_images", "n_patients", "finding", *STATES, "reason")
    return [{name: row[name] for name in order} for row in rows]


def together_table(sites: Mapping[str, Counts], findings: Sequence[str]) -> list[Counts]:
    """Rows of ``label_cooccurrence.csv``: each pair of findings once, by site, then ``all``."""
    rows = []
    for i, finding in enumerate(findings):
        for j in range(i + 1, len(findings)):
            told = {site: counts["together"][i][j] for site, counts in sites.items()}
            pair = {"finding": finding, "with": findings[j], "split": PAIRS_OF}
            rows += [
                {"site": site, **pair, "n_both": count, "reason": "withheld" if count is None else ""}
                for site, count in told.items()
            ]
            hidden = sum(count is None for count in told.values())
            reason = f"{hidden} of {len(told)} sites withhold it" if hidden else ""
            rows.append({"site": "all", **pair, "n_both": sum(count or 0 for count in told.values()), "reason": reason})
    return rows
