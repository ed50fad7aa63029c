"""Predictions for what was given: an outcome each, as JSON and as rows of a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nc_medfl.errors import writing
from nc_medfl.inference.model_file import PortableModel
from nc_medfl.inference.reading import Given, read_given
from nc_medfl.inference.scoring import POOLED, Answer, answer, operating_point

#: Columns of ``predict --out``, in order: a row a file and finding, one row for a file without an answer.
COLUMNS = (
    "file",
    "sample_id",
    "outcome",
    "detail",
    "finding",
    "probability",
    "threshold",
    "positive",
    "score",
    "reason",
    "unlike_score",
    "unlike_limit",
    "unlike",
    "unlike_reason",
)

_REMEDY = "Give --out another file."
NO_REFERENCE = "the model file holds no reference of its training images"


@dataclass(frozen=True)
class Prediction:
    """One image's outcome, and its answer where it has one."""

    given: Given
    answer: Answer | None

    def to_json(self, model: PortableModel, site: str | None) -> dict[str, Any]:
        """As JSON values."""
        given = self.given
        head: dict[str, Any] = {"file": shown(given.file), "outcome": given.outcome}
        if given.sample_id:
            head["sample_id"] = given.sample_id
        if given.detail:
            head["detail"] = given.detail
        if self.answer is None:
            return head
        likeness = self.answer.likeness
        return {
            **head,
            "remarks": list(given.remarks),
            "model": model.description.fingerprint,
            "operating_point": site or POOLED,
            "unlike_training_data": {
                "score": None if likeness is None else likeness.score,
                "limit": None if likeness is None else likeness.limit,
                "flagged": None if likeness is None else likeness.flagged,
                "reason": NO_REFERENCE if likeness is None else likeness.reason,
            },
            "findings": {
                f.finding: {
                    "probability": f.probability,
                    "threshold": f.threshold,
                    "positive": f.positive,
                    "score": f.score,
                    **({"reason": f.reason} if f.reason else {}),
                }
                for f in self.answer.findings
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        """As rows with the columns of :data:`COLUMNS`; empty where undefined."""
        given = self.given
        detail = "; ".join([given.detail] * bool(given.detail) + list(given.remarks))
        head = {"file": shown(given.file), "sample_id": given.sample_id, "outcome": given.outcome, "detail": detail}
        if self.answer is None:
            return [head]
        likeness = self.answer.likeness
        if likeness is None:
            unlike: dict[str, Any] = {"unlike_reason": NO_REFERENCE}
        else:
            unlike = {
                "unlike_score": f"{likeness.score:.6g}",
                "unlike_limit": f"{likeness.limit:.6g}",
                "unlike": int(likeness.flagged),
                "unlike_reason": likeness.reason,
            }
        return [
            {
                **head,
                "finding": f.finding,
                "probability": f"{f.probability:.6g}",
                "threshold": "" if f.threshold is None else f"{f.threshold:.6g}",
                "positive": "" if f.positive is None else int(f.positive),
                "score": f"{f.score:.6g}",
                "reason": f.reason,
                **unlike,
            }
            for f in self.answer.findings
        ]


def predict_each(
    model: PortableModel, names: Sequence[str], *, site: str | None = None, split: str | None = None
) -> Iterator[Prediction]:
    """Answer what was given, in order.

    Args:
        model: as read.
        names: files, folders and stores.
        site: whose thresholds and calibration; None: of all patients pooled.
        split: of stores; None for all.

    Yields:
        One prediction a file, or a store's image.

    Raises:
        UserError: if nothing was given, the model knows no such site, or this package reads files otherwise.
    """
    operating_point(model.description, site)
    for batch in read_given(names, model.description, split):
        squares = [given.square for given in batch if given.square is not None]
        answers = iter(answer(model, np.stack(squares), site) if squares else ())
        for given in batch:
            yield Prediction(given, None if given.square is None else next(answers))


def write_csv(path: Path, predictions: Iterator[Prediction], each: Callable[[Prediction], None]) -> int:
    """Write predictions as they come, whole or not at all.

    Args:
        path: the file.
        predictions: taken one by one.
        each: called with each of them.

    Returns:
        How many.

    Raises:
        UserError: if the file can't be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    done = 0
    with writing(path, _REMEDY):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape")
    try:
        with writing(path, _REMEDY), stream:
            writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
            writer.writeheader()
            for prediction in predictions:
                writer.writerows(prediction.rows())
                each(prediction)
                done += 1
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return done


def shown(name: str) -> str:
    """A file's name as text that can be printed, whatever bytes it holds."""
    text = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
