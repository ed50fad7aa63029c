"""What is asked of an archive: filters, the QIDO-RS queries they make, and the check of every answer.

Attributes and their matching are those of PS3.18 section 10.6. A server may ignore a filter or leave an attribute
out of its answer; so each answer is judged here again, and what the answers don't tell is judged in the header of
the fetched file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from nc_medfl.errors import UserError

#: Computed, digital and film radiography; a scanned film is RG.
DEFAULT_MODALITIES = ("CR", "DX", "RG")

STUDY_UID, SERIES_UID, SOP_UID = "0020000D", "0020000E", "00080018"
SERIES_OF_STUDY, INSTANCES_OF_SERIES = "00201206", "00201209"
#: Keyword to tag of what a filter is about.
TAGS = {
    "StudyDate": "00080020",
    "AccessionNumber": "00080050",
    "Modality": "00080060",
    "BodyPartExamined": "00180015",
}

_CODE = re.compile(r"[A-Z0-9_ ]{1,16}")
_MAX_ACCESSION = 64

#: An answer of QIDO-RS: one object in the DICOM JSON model (PS3.18 annex F).
Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Filters:
    """Which images are wanted; all conditions hold together.

    Attributes:
        modalities: of the series, at least one; upper case.
        body_parts: Body Part Examined of the series, upper case; any, stated or not, where empty.
        first: first study date of the window, inclusive.
        last: last study date of the window, inclusive.
        accessions: accession numbers, exact; any where empty.
    """

    modalities: tuple[str, ...] = DEFAULT_MODALITIES
    body_parts: tuple[str, ...] = ()
    first: date | None = None
    last: date | None = None
    accessions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise a UserError for a value that can't be meant."""
        if not self.modalities:
            raise UserError("--modality: give at least one, such as CR.")
        for option, codes in (("--modality", self.modalities), ("--body-part", self.body_parts)):
            wrong = next((code for code in codes if not _CODE.fullmatch(code)), None)
            if wrong is not None:
                raise UserError(f"{option} {wrong!r}: is no DICOM code. Give 1 to 16 capitals and digits, such as CR.")
        if self.first and self.last and self.first > self.last:
            raise UserError("--from-date: is after --to-date. Exchange them.")

    @property
    def window(self) -> str:
        """The study dates as a range of PS3.5 (``20200101-20201231``, open ends left out); empty without bounds."""
        first, last = (_da(day) if day else "" for day in (self.first, self.last))
        return f"{first}-{last}" if first or last else ""

    def study_queries(self) -> list[dict[str, str]]:
        """Queries that together find the studies: one an accession number, else one a modality.

        One value a query, since lists of values are matched by some servers only.
        """
        window = {"StudyDate": self.window} if self.window else {}
        if self.accessions:
            return [{"AccessionNumber": number, **window} for number in self.accessions]
        return [{"ModalitiesInStudy": modality, **window} for modality in self.modalities]

    def judge(self, keyword: str, value: str) -> bool:
        """Whether a value of an attribute, ``""`` if it has none, is one that is asked for."""
        if keyword == "Modality":
            return value.upper() in self.modalities
        if keyword == "BodyPartExamined":
            return not self.body_parts or value.upper() in self.body_parts
        if keyword == "AccessionNumber":
            return not self.accessions or value in self.accessions
        first, last = _da(self.first or date.min), _da(self.last or date.max)
        # With points, as the standard's forerunner wrote dates.
        return not self.window or first <= value.replace(".", "") <= last

    def judge_answer(self, answer: Answer, keywords: Collection[str]) -> tuple[bool, frozenset[str]]:
        """Judge what an answer says about some attributes.

        Returns:
            Whether nothing in it speaks against it, and the attributes that matter and aren't in it.
        """
        unknown = set()
        for keyword in keywords:
            said = value(answer, TAGS[keyword])
            if said is not None:
                if not self.judge(keyword, said):
                    return False, frozenset()
            elif not self.judge(keyword, ""):
                unknown.add(keyword)
        return True, frozenset(unknown)


def _da(day: date) -> str:
    """A date as DICOM writes it (VR DA, PS3.5 section 6.2)."""
    return day.isoformat().replace("-", "")


def value(answer: Answer, tag: str) -> str | None:
    """First value of an attribute of an answer: ``""`` if it is there and empty, None if it isn't there."""
    element = answer.get(tag)
    if not isinstance(element, Mapping):
        return None
    values = element.get("Value") or [""]
    return "" if values[0] is None else str(values[0]).strip()


def count(answer: Answer, tag: str) -> int | None:
    """A number of related objects that an answer states, if it does."""
    text = value(answer, tag) or ""
    return int(text) if text.isdecimal() else None


def pages(
    ask: Callable[[int, int], Sequence[Answer]], uid: str, *, page: int, expected: int | None = None
) -> Iterator[Answer]:
    """All answers of a query, each object once, page after page for as long as the server plays along.

    A short page is not the last, since servers have limits of their own; an empty one is. But where the page before
    it was full, the server may count its pages wrongly (Orthanc 1.10 with ModalitiesInStudy applies the offset to
    what the limit has left), or know no offsets; so then more and more is asked for from the start, until nothing
    new comes.

    Args:
        ask: the query, called with (limit, offset).
        uid: tag of what tells the objects apart.
        page: how many to ask for at a time.
        expected: how many there are where that is known; spares the query that finds nothing.

    Raises:
        UserError: if the server gives the same full page whatever it is asked.
    """
    seen: set[str] = set()
    limit, offset, full, repeats, from_start = page, 0, False, False, False
    while expected is None or len(seen) < expected:
        answers = ask(limit, offset)
        fresh = {name: answer for answer in answers if (name := value(answer, uid)) and name not in seen}
        yield from fresh.values()
        seen.update(fresh)
        if fresh and not from_start:
            full = len(answers) >= limit
            offset += len(answers)
        elif fresh or (full and not from_start):
            repeats = repeats or bool(answers and not from_start)
            limit, offset, from_start = 2 * max(limit, len(seen)), 0, True
        elif repeats and len(seen) == page:
            raise UserError(
                f"the archive gives its first {page} answers over and over. Ask for less at a time: "
                "narrow --from-date and --to-date."
            )
        else:
            return


def read_accessions(path: Path) -> tuple[str, ...]:
    """Accession numbers from a file, one a line, each once, in its order; empty lines are skipped.

    Raises:
        UserError: if the file can't be read, holds none, or a line can't be one. Lines are named by number alone.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as text. Give a file of accession numbers, one a line.") from error
    for number, line in enumerate(lines, 1):
        if len(line.strip()) > _MAX_ACCESSION or not line.strip().isprintable() or "\\" in line:
            raise UserError(f"{path}, line {number}: is no accession number. Put one a line and nothing else.")
    found = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise UserError(f"{path}: holds no accession number. Put one a line.")
    return found
