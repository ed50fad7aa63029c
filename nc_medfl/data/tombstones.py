"""Who and what has been taken out of a store, so that no later preparation brings it back.

``site_private/tombstones.json`` holds keys only: it names nobody without the salt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nc_medfl.data.manifest import keyed_hash
from nc_medfl.data.private import FOLDER
from nc_medfl.errors import UserError

TOMBSTONES = "tombstones.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Tombstone:
    """One patient, or one image, that was taken out.

    Attributes:
        kind: ``patient`` or ``sample``.
        key: its ``patient_key`` or ``sample_id``.
        date: when, ``YYYY-MM-DD``.
        images: how many images of it were in the store.
    """

    kind: Literal["patient", "sample"]
    key: str
    date: str
    images: int


@dataclass(frozen=True)
class Withdrawn:
    """The keys that must not come back.

    Attributes:
        patients: patient keys.
        samples: sample ids.
    """

    patients: frozenset[str] = frozenset()
    samples: frozenset[str] = frozenset()

    def covers(self, salt: bytes, patient: str, source_sha256: str) -> bool:
        """Whether an image is withdrawn.

        Args:
            salt: the site's secret.
            patient: the patient's identifier, in the clear.
            source_sha256: of the image's file.
        """
        if not self.patients and not self.samples:
            return False
        return (
            keyed_hash(salt, "patient", patient) in self.patients
            or keyed_hash(salt, "sample", source_sha256) in self.samples
        )


def read_tombstones(store: Path) -> list[Tombstone]:
    """All tombstones of a store, oldest first.

    Raises:
        UserError: if the list is damaged: going on could bring back who has withdrawn.
    """
    path = store / FOLDER / TOMBSTONES
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if int(content["schema_version"]) > SCHEMA_VERSION:
            raise UserError(f"{path}: written by a newer nc_medfl. Upgrade this one.")
        return [Tombstone(**entry) for entry in content["tombstones"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged, so that who has withdrawn isn't known. Restore it from a backup before going on."
        ) from error


def withdrawn_keys(store: Path) -> Withdrawn:
    """The keys that a preparation of this store must leave out."""
    found = read_tombstones(store)
    return Withdrawn(
        frozenset(stone.key for stone in found if stone.kind == "patient"),
        frozenset(stone.key for stone in found if stone.kind == "sample"),
    )


def tombstones_with(store: Path, stones: Iterable[Tombstone]) -> bytes:
    """The list as it is to be with some more; what has a tombstone keeps it as it is."""
    all_of = read_tombstones(store)
    known = {(stone.kind, stone.key) for stone in all_of}
    all_of += [stone for stone in stones if (stone.kind, stone.key) not in known]
    content: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "tombstones": [asdict(stone) for stone in all_of]}
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
