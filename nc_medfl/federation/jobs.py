"""Job folders: ``job.yaml`` with the settings, ``job.py`` with ``build_recipe``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nc_medfl.config import JobSettings, load_job_settings
from nc_medfl.errors import UserError
from nc_medfl.federation.tracking import check_tracking

RecipeBuilder = Callable[..., Any]


def read_job(folder: str | Path, overrides: Sequence[str] = ()) -> JobSettings:
    """Settings of the job in a folder, with overrides applied.

    Raises:
        UserError: if the folder is no job, or a setting is wrong.
    """
    folder = Path(folder)
    for name in ("job.py", "job.yaml"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name}, so not a job. Give a folder such as jobs/fednca_cxr.")
    settings = load_job_settings(folder / "job.yaml", overrides)
    check_tracking(settings)
    weights = settings.network.init_weights
    if weights is None:
        return settings
    # FLARE's processes work in folders of their own.
    network = settings.network.model_copy(update={"init_weights": str(Path(weights).resolve())})
    return settings.model_copy(update={"network": network})


def recipe_builder(folder: str | Path | None) -> RecipeBuilder:
    """The ``build_recipe(settings, *, min_clients)`` of a job folder, or the package's own for None."""
    if folder is None:
        from nc_medfl.federation.workflows.recipe import make_recipe

        return make_recipe
    path = Path(folder) / "job.py"
    spec = importlib.util.spec_from_file_location("nc_medfl_job", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: cannot be read as Python.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    builder = getattr(module, "build_recipe", None)
    if not callable(builder):
        raise UserError(f"{path}: no function build_recipe(settings, *, min_clients). See jobs/fednca_cxr/job.py.")
    found: RecipeBuilder = builder
    return found
