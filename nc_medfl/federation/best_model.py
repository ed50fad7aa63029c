"""The best model that a site has had after training at home: on its own disk, for the hospital alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from nc_medfl.config import JobSettings
from nc_medfl.data.private import private_folder, private_subfolder, write_private
from nc_medfl.training.model import save_model

#: Below the store's ``site_private``.
FOLDER = "best_models"


class BestModel:
    """A model file and its score for one federation; a trainer that is started anew goes on from them.

    Args:
        store: the site's.
        settings: the job's.
        run_id: of the federation.
    """

    def __init__(self, store: Path, settings: JobSettings, run_id: str) -> None:
        self._settings = settings
        # The server's word becomes no part of a path as it is.
        short = hashlib.sha256(run_id.encode()).hexdigest()[:8]
        folder = private_subfolder(private_folder(store) / FOLDER)
        self.path = folder / f"{settings.name}-{short}.pt"
        self._score = self.path.with_suffix(".json")

    def offer(
        self, score: float | None, params: Mapping[str, Tensor], round_number: int, prints: Mapping[str, str]
    ) -> bool:
        """Keep a model if it is better than what is kept.

        Args:
            score: macro AUC on the site's validation split; None, where that is undefined, keeps nothing.
            params: parameters and buffers as trained, before clipping or noise.
            round_number: 0 for the first.
            prints: the fingerprints of the model.

        Returns:
            Whether it is kept now.

        Raises:
            OSError: if the disk is full; what was kept is still there.
        """
        if score is None or score <= self._best():
            return False
        save_model(self.path, params, self._settings, rounds=round_number + 1, prints=prints)
        self.path.chmod(0o600)
        write_private(self._score, json.dumps({"round": round_number + 1, "val_macro_auc": score}).encode())
        return True

    def _best(self) -> float:
        try:
            return float(json.loads(self._score.read_text(encoding="utf-8"))["val_macro_auc"])
        except (OSError, ValueError, KeyError):
            return float("-inf")
