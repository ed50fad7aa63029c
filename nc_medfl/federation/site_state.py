"""What a site keeps on its own disk between rounds, so that a trainer started anew for every task loses nothing."""

from __future__ import annotations

import io
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nc_medfl.data.store import write_atomic
from nc_medfl.errors import UserError

_KEPT_DAYS = 30
_KEPT_ROUNDS = 3
_PRECISION = "precision"
_RUN_ID = re.compile(r"[0-9a-f]{32}")


class SiteState:
    """A folder of one federation's state at one site.

    A state is kept under the round that it comes after, and the three newest are kept: a round that is repeated, or
    done again after the server was restarted, starts from the state it started from before. The server writes down a
    round while the sites are at the next one, so that a site can be two rounds ahead of what a kill left there.

    Args:
        root: the site's state folder.
        run_id: the federation's, as the server tells it.

    Raises:
        UserError: if that is no such thing; it becomes the name of a folder here.
    """

    def __init__(self, root: Path, run_id: str) -> None:
        if not _RUN_ID.fullmatch(run_id):
            raise UserError("the server's run id is not 32 hexadecimal digits. Update nc_medfl at the server.")
        self.folder = root / run_id
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for other in root.iterdir():
            if _RUN_ID.fullmatch(other.name) and time.time() - other.stat().st_mtime > _KEPT_DAYS * 86400:
                shutil.rmtree(other, ignore_errors=True)

    def save_optimizer(self, round_number: int, state: dict[str, Any]) -> None:
        """Keep an optimiser's state after a round of training.

        Raises:
            OSError: if the disk is full; what was there is still there.
        """
        self._save("optimizer", round_number, state)

    def load_optimizer(self, round_number: int) -> dict[str, Any] | None:
        """The state to start a round with: of the last round before it that this site trained in, or None.

        Raises:
            UserError: if the file can't be read.
        """
        return self._load("optimizer", round_number)

    def save_memory(self, round_number: int, tensors: Mapping[str, Tensor]) -> None:
        """Keep a method's own tensors after a round of training.

        Raises:
            OSError: if the disk is full; what was there is still there.
        """
        self._save("memory", round_number, {name: value.detach().cpu() for name, value in tensors.items()})

    def load_memory(self, round_number: int) -> dict[str, Tensor]:
        """A method's own tensors to start a round with; none if this site has not trained before it.

        Raises:
            UserError: if the file can't be read.
        """
        return self._load("memory", round_number) or {}

    def save_precision(self, chosen: str) -> None:
        """Keep which precision this site trains in, for the whole of the federation."""
        write_atomic(self.folder / _PRECISION, chosen.encode())

    def load_precision(self) -> str | None:
        """The precision that :meth:`save_precision` kept, or None."""
        path = self.folder / _PRECISION
        kept = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
        return kept if kept in ("float32", "mixed") else None

    def forget(self) -> None:
        """Remove everything: the federation has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _save(self, kind: str, round_number: int, state: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self._path(kind, round_number), buffer.getbuffer())
        for number in sorted(self._rounds(kind), reverse=True)[_KEPT_ROUNDS:]:
            self._path(kind, number).unlink(missing_ok=True)

    def _load(self, kind: str, round_number: int) -> dict[str, Any] | None:
        earlier = [number for number in self._rounds(kind) if number < round_number]
        if not earlier:
            return None
        path = self._path(kind, max(earlier))
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a file that is not one of its own
            raise UserError(f"{path}: damaged. Remove it, and this site starts with a fresh one.") from error
        return state

    def _path(self, kind: str, round_number: int) -> Path:
        return self.folder / f"{kind}-{round_number}.pt"

    def _rounds(self, kind: str) -> list[int]:
        return [int(path.stem.partition("-")[2]) for path in self.folder.glob(f"{kind}-*.pt")]
