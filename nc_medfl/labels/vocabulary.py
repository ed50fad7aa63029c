"""Ordered vocabularies of findings. The order is the order of the classes in every model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

from nc_medfl.config.vocabulary import OwnVocabulary
from nc_medfl.errors import UserError
from nc_medfl.mistakes import nearest
from nc_medfl.settings import Settings, read_settings

#: The column that says a reader found none of the findings. It is stored beside them, never trained on.
NO_FINDING = "No Finding"


@dataclass(frozen=True)
class Vocabulary:
    """The findings a federation speaks of, in a fixed order.

    Args:
        name: a short name, as in ``nih14``.
        findings: the names, unique, without ``No Finding``.

    Raises:
        UserError: if a name is repeated, empty, or is ``No Finding``.
    """

    name: str
    findings: tuple[str, ...]

    def __post_init__(self) -> None:
        repeated = sorted({f for f in self.findings if self.findings.count(f) > 1})
        if repeated:
            raise UserError(f"vocabulary {self.name}: {', '.join(repeated)} stands twice. Name each finding once.")
        if not self.findings or any(not f.strip() or f == NO_FINDING for f in self.findings):
            raise UserError(
                f"vocabulary {self.name}: needs one finding or more, none of them empty or '{NO_FINDING}' "
                "(that one is kept by itself)."
            )

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the ordered names, as hexadecimal text. Two sites with equal ones agree."""
        return hashlib.sha256("\n".join(self.findings).encode()).hexdigest()


class _VocabularyFile(Settings):
    """What stands in a file; version and source are for its readers."""

    name: str | None = None
    version: int | str = 1
    source: str = ""
    findings: tuple[str, ...]


def _folder() -> Path:
    return Path(str(resources.files("nc_medfl.labels"))) / "vocabularies"


def available_vocabularies() -> list[str]:
    """Names of the vocabularies that come with the package."""
    return sorted(p.stem for p in _folder().glob("*.yaml"))


@lru_cache(maxsize=32)
def load_vocabulary(given: str | OwnVocabulary) -> Vocabulary:
    """Load a vocabulary by its name in the package, from a YAML file of the user's, or as a job has it written out.

    Args:
        given: ``nih14``, the path of a YAML file with ``name`` and ``findings``, or these.

    Raises:
        UserError: if there is none by that name, or the file is not a vocabulary.
    """
    if isinstance(given, OwnVocabulary):
        return Vocabulary(given.name, given.findings)
    path = _folder() / f"{given}.yaml"
    if not path.is_file():
        path = Path(given)
    if not path.is_file():
        near = nearest(given, available_vocabularies())
        raise UserError(
            f"no vocabulary '{given}' (there are: {', '.join(available_vocabularies())}), and no such file. "
            + (f"Did you mean '{near}'?" if near else "Name one of these or give the path of a YAML file.")
        )
    told = read_settings(_VocabularyFile, path)
    return Vocabulary(told.name or path.stem, told.findings)
