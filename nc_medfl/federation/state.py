"""What the server keeps of a federation after every round, so that a killed job goes on where it was.

``<state folder>/<job name>/<job id>/round-N/`` holds the global model, the best one, the tables and ``state.json``.
A round's folder appears in one step when it is complete, and the one before goes. The state folder is
``nc_medfl_state`` in the server's FLARE workspace, outside the folder of any one job, or the one named by
``NC_MEDFL_STATE_DIR``.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nc_medfl.config import JobSettings
from nc_medfl.data.store import hash_of, write_json
from nc_medfl.errors import UserError
from nc_medfl.federation import keys
from nc_medfl.federation.choice import Chosen, Score
from nc_medfl.federation.server_step import ServerStep

STATE_JSON = "state.json"
_SCHEMA = 1
_TABLES = (keys.ROUNDS_CSV, keys.COLLAPSE_CSV, keys.UPDATES_CSV, keys.PRIVACY_CSV)


@dataclass(frozen=True)
class SavedRound:
    """A federation as it stood after a round.

    Attributes:
        folder: where it lies.
        rounds: that are finished.
        best: the best model so far, if one was scored.
        run_id: of the federation; sites keep their own state under it.
    """

    folder: Path
    rounds: int
    best: Chosen | None
    run_id: str

    def files(self) -> list[str]:
        """Names of the models, and of what else a method keeps."""
        models = [name for name in (keys.LAST_MODEL, keys.BEST_MODEL) if (self.folder / name).is_file()]
        return [*models, *_kept_by_the_method(self.folder)]

    def params(self) -> dict[str, Tensor]:
        """The global model's parameters and buffers."""
        content = torch.load(self.folder / keys.LAST_MODEL, map_location="cpu", weights_only=True)
        params: dict[str, Tensor] = content["state_dict"]
        return params


def state_folder(workspace: Path, process: str) -> Path:
    """The folder for state that outlives a job: ``process`` is the site's name, or ``server``."""
    named = os.environ.get(keys.ENV_STATE_DIR)
    return Path(named) / process if named else workspace / "nc_medfl_state"


def settings_hash(settings: JobSettings) -> str:
    """A hash of what a federation computes; how long it waits for sites may change when it goes on."""
    content = settings.for_sites().model_dump(mode="json")
    del content["federation"]
    return hash_of(content)


class RoundStore:
    """The rounds of one job on the server's disk.

    Args:
        root: the state folder.
        settings: the job's.
        job_id: FLARE's.
    """

    def __init__(self, root: Path, settings: JobSettings, job_id: str) -> None:
        self._jobs = root / settings.name
        self.folder = self._jobs / job_id
        self._settings = settings
        self._hash = settings_hash(settings)
        self._went_on_from: Path | None = None

    def find(self) -> SavedRound | None:
        """The round to go on from: this job's own, or with ``federation.resume`` the newest of its name.

        Raises:
            UserError: if what there is was made with other settings, or by a newer package.
        """
        saved = _newest([self.folder])
        if saved is None and self._settings.federation.resume:
            saved = _newest(sorted(self._jobs.glob("*")))
        if saved is None:
            return None
        folder, content = saved
        if content["schema_version"] > _SCHEMA:
            raise UserError(f"{self._settings.name}: its saved rounds are of a newer nc_medfl. Upgrade the server's.")
        if content["settings_hash"] != self._hash:
            raise UserError(
                f"{self._settings.name}: {content['rounds']} rounds are saved, but of a job with other settings. "
                "Resume with the settings it had, or start afresh without resume."
            )
        self._went_on_from = folder.parent
        best = content["best"]
        return SavedRound(
            folder,
            int(content["rounds"]),
            Chosen(int(best["rounds"]), Score(best["by_site"])) if best else None,
            str(content["run_id"]),
        )

    def save(self, results: Path, rounds: int, best: Chosen | None, run_id: str) -> None:
        """Keep what the results folder holds after a round: tables and models.

        Raises:
            OSError: if the disk is full; the round before is then still there.
        """
        new, done = self.folder / ".saving", self.folder / f"round-{rounds}"
        for folder in (new, done):
            shutil.rmtree(folder, ignore_errors=True)
        new.mkdir(parents=True)
        for name in _TABLES:
            shutil.copyfile(results / name, new / name)
        for name in (keys.LAST_MODEL, *([keys.BEST_MODEL] if best else []), *_kept_by_the_method(results)):
            link_or_copy(results / name, new / name)
        content: dict[str, Any] = {
            "schema_version": _SCHEMA,
            "rounds": rounds,
            "best": {"rounds": best.rounds, "by_site": dict(best.score.by_site)} if best else None,
            "run_id": run_id,
            "settings_hash": self._hash,
            "saved": time.time(),
        }
        write_json(new / STATE_JSON, content)
        new.rename(done)
        for folder in self.folder.glob("round-*"):
            if folder != done:
                shutil.rmtree(folder, ignore_errors=True)

    def forget(self) -> None:
        """Remove what is kept: the federation has ended well."""
        for folder in {self.folder, self._went_on_from or self.folder}:
            shutil.rmtree(folder, ignore_errors=True)


def _kept_by_the_method(folder: Path) -> list[str]:
    """Names of what a method keeps beside the models, where it does."""
    controls = [keys.CONTROLS] if (folder / keys.CONTROLS).is_file() else []
    return [*controls, *(path.name for path in ServerStep.files(folder))]


def _newest(jobs: list[Path]) -> tuple[Path, dict[str, Any]] | None:
    found = [
        (path.parent, json.loads(path.read_text(encoding="utf-8")))
        for job in jobs
        for path in job.glob(f"round-*/{STATE_JSON}")
    ]
    return max(found, key=lambda pair: (pair[1]["saved"], pair[1]["rounds"]), default=None)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that is only ever replaced whole a second name, or a copy where the disk can't."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def replace_by_link(source: Path, target: Path) -> None:
    """Let a second name stand for such a file, whatever it stood for before."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    link_or_copy(source, temporary)
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # two names of one file are not replaced
