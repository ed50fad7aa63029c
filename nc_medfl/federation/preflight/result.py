"""What a check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Outcome = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Result:
    """The answer to one question.

    Attributes:
        name: of the check.
        outcome: ``failed`` would end a federation at this site; ``warning`` would harm it; ``skipped`` could not be
            looked at, since another check failed.
        text: what was found.
        remedy: what to do about it; empty where nothing is.
    """

    name: str
    outcome: Outcome
    text: str
    remedy: str = ""

    def line(self) -> str:
        """One line for a person."""
        return f"{self.outcome:<8} {self.name}: {self.text}" + (f" {self.remedy}" if self.remedy else "")

    def as_json(self) -> dict[str, Any]:
        """The same for a script."""
        return asdict(self)


def ok(name: str, text: str) -> Result:
    """Nothing to do."""
    return Result(name, "ok", text)


def warning(name: str, text: str, remedy: str) -> Result:
    """The site can take part, with harm."""
    return Result(name, "warning", text, remedy)


def failed(name: str, text: str, remedy: str) -> Result:
    """The site can't take part."""
    return Result(name, "failed", text, remedy)


def skipped(name: str, because: str) -> Result:
    """It couldn't be looked at."""
    return Result(name, "skipped", because)
