"""What a label map does to a table, in counts: for a person before anything is written, and for the record after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from nc_medfl.labels.harmonise import HarmonisedLabels
from nc_medfl.labels.label_map import LabelMap, blank_policy, uncertain_policy
from nc_medfl.labels.states import BLANK, CONFLICT, NEGATIVE, POSITIVE, UNCERTAIN, UNKNOWN, Strange, shown
from nc_medfl.labels.vocabulary import NO_FINDING, Vocabulary

How = Literal["kept", "merged", "one of several", "unknown"]

#: The rules by which a table's contradictions are resolved, as they are told to its owner.
RULES = (
    "A finding that is present beats 'No Finding'.",
    "Of several rows about one image, what one leaves open another tells; a finding that they tell differently "
    "becomes unknown.",
    "An image about which rows name different patients is left out.",
    "A finding that nobody was asked about is unknown, not absent.",
)


@dataclass(frozen=True)
class FindingCounts:
    """One finding of the vocabulary, counted over images.

    Attributes:
        finding: its name.
        how: ``kept`` (one column or name), ``merged`` (several), ``one of several`` (told with others only), or
            ``unknown`` (the table doesn't speak of it).
        sources: the columns or names it comes from.
        positive, negative, uncertain, blank, unknown, conflict: images by what the table says.
        uncertain_becomes, blank_becomes: the policies.
    """

    finding: str
    how: How
    sources: tuple[str, ...]
    positive: int
    negative: int
    uncertain: int
    blank: int
    unknown: int
    conflict: int
    uncertain_becomes: str
    blank_becomes: str


@dataclass(frozen=True)
class Preview:
    """What a map does to a table.

    Attributes:
        label_map, vocabulary: name and version of the map; name of the vocabulary.
        source: what the map was written for.
        rows, images: rows of the table, and images they are about.
        findings: one entry a finding, in the order of the vocabulary.
        no_finding: images with it, without it, and unknown.
        left_out: column or name, why no finding is made of it, and rows where it is present.
        unmapped_columns: columns that nothing is read from and nobody left out.
        unmapped_values: column, value (empty where it may be somebody's name), rows with it.
        repeated_rows, disagreeing, contradictory, patient_conflicts: as in ``HarmonisedLabels``.
    """

    label_map: str
    vocabulary: str
    source: str
    rows: int
    images: int
    findings: tuple[FindingCounts, ...]
    no_finding: dict[str, int]
    left_out: tuple[tuple[str, str, int], ...]
    unmapped_columns: tuple[str, ...]
    unmapped_values: tuple[tuple[str, str, int], ...]
    repeated_rows: int
    disagreeing: int
    contradictory: int
    patient_conflicts: int

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "rules": list(RULES)}


def preview(
    table: pd.DataFrame,
    label_map: LabelMap,
    vocabulary: Vocabulary,
    labels: HarmonisedLabels,
    strange: Sequence[Strange] = (),
) -> Preview:
    """Count what a map made of a table.

    Args:
        table: texts, one row an image.
        label_map: how it was read.
        vocabulary: the findings wanted.
        labels: what came of it.
        strange: values and names that the map doesn't know.
    """
    reading = labels.reading
    counts = {
        state: (reading.states == state).sum(axis=0)
        for state in (NEGATIVE, POSITIVE, UNCERTAIN, BLANK, UNKNOWN, CONFLICT)
    }
    known = [name for name, _ in label_map.left_out.items()]
    findings = []
    for at, name in enumerate(vocabulary.findings):
        sources = _present_sources(table, label_map, name)
        findings.append(
            FindingCounts(
                finding=name,
                how=_how(label_map, sources),
                sources=sources,
                positive=int(counts[POSITIVE][at]),
                negative=int(counts[NEGATIVE][at]),
                uncertain=int(counts[UNCERTAIN][at]),
                blank=int(counts[BLANK][at]),
                unknown=int(counts[UNKNOWN][at]),
                conflict=int(counts[CONFLICT][at]),
                uncertain_becomes=uncertain_policy(label_map, name),
                blank_becomes=blank_policy(label_map, name),
            )
        )
    others = [name for name in reading.left_out if name.casefold() not in {k.casefold() for k in known}]
    normal = labels.no_finding
    return Preview(
        label_map=f"{label_map.name} {label_map.version}",
        vocabulary=vocabulary.name,
        source=label_map.source,
        rows=len(table),
        images=len(labels.keys),
        findings=tuple(findings),
        no_finding={
            "positive": int((normal == 1).sum()),
            "negative": int((normal == 0).sum()),
            "unknown": int(np.isnan(normal).sum()),
        },
        left_out=(
            *((name, reason, _left_out(labels, name)) for name, reason in label_map.left_out.items()),
            *_others(labels, others),
        ),
        unmapped_columns=unmapped_columns(table, label_map),
        unmapped_values=tuple(
            (s.column, s.text if shown(s, list(label_map.sources())) else "", s.count) for s in strange
        ),
        repeated_rows=labels.merged,
        disagreeing=labels.disagreeing,
        contradictory=labels.contradictory,
        patient_conflicts=labels.patient_conflicts,
    )


def unmapped_columns(table: pd.DataFrame, label_map: LabelMap) -> tuple[str, ...]:
    """Columns that the map neither reads nor leaves out knowingly."""
    used = {
        *(label_map.image_column, label_map.patient_column),
        *(label_map.findings or {}),
        *label_map.one_of,
        *label_map.left_out,
        *(name for names in label_map.facts.values() for name in names),
        *label_map.ignore_columns,
    }
    if label_map.delimited is not None:
        used.add(label_map.delimited.column)
    return tuple(str(name) for name in table.columns if name not in used and str(name).strip())


def silence_told(found: Preview, table: str) -> tuple[str, ...]:
    """A line for the person who prepares on what the table doesn't speak of."""
    unknown = [entry.finding for entry in found.findings if entry.how == "unknown"]
    if not unknown:
        return ()
    return (
        f"{table} has no column for {len(unknown)} of {len(found.findings)} findings, which are unknown here: "
        f"{', '.join(unknown)}.",
    )


def conflicts_told(found: Preview, table: str) -> tuple[str, ...]:
    """Lines for the person who prepares on how contradictions were resolved."""
    said = []
    if found.contradictory:
        said.append(f"{found.contradictory} images are labelled '{NO_FINDING}' and with a finding; the finding counts.")
    if found.repeated_rows:
        said.append(f"{found.repeated_rows} rows of {table} repeat another and are merged.")
    if found.disagreeing:
        said.append(
            f"Rows of {table} disagree about {found.disagreeing} images; what they tell differently is unknown there."
        )
    if found.patient_conflicts:
        said.append(
            f"Rows of {table} name different patients for {found.patient_conflicts} images, which are left out "
            "(no_patient_id)."
        )
    return tuple(said)


def _present_sources(table: pd.DataFrame, label_map: LabelMap, finding: str) -> tuple[str, ...]:
    named = [name for name, findings in label_map.sources().items() if finding in findings]
    if label_map.delimited is not None:
        # Two spellings of one name are one.
        return tuple({name.replace("_", " ").casefold(): name for name in reversed(named)}.values())
    return tuple(name for name in named if name in table)


def _how(label_map: LabelMap, sources: Sequence[str]) -> How:
    if not sources:
        return "unknown"
    if all(name in label_map.one_of for name in sources):
        return "one of several"
    return "kept" if len(sources) == 1 else "merged"


def _left_out(labels: HarmonisedLabels, name: str) -> int:
    counts = labels.reading.left_out
    return sum(count for other, count in counts.items() if other.casefold() == name.casefold())


def _others(labels: HarmonisedLabels, names: Sequence[str]) -> list[tuple[str, str, int]]:
    """Names that the map leaves out without listing them; rare ones, which may be a person's, are added up."""
    counts = labels.reading.left_out
    frequent = [name for name in names if shown(Strange("", name, counts[name], 0))]
    rare = sum(counts[name] for name in names if name not in frequent)
    reason = "no finding of the vocabulary"
    entries = [(name, reason, counts[name]) for name in sorted(frequent, key=lambda n: (-counts[n], n))]
    return [*entries, ("(rare names)", reason, rare)] if rare else entries
