"""What a run of a bench is: everything that decides its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from nc_medfl.benchmark import pools
from nc_medfl.benchmark.datasets import blake, source_print
from nc_medfl.benchmark.matrix import Matrix, PartitionSpec, RunKey, job_of, regime_of
from nc_medfl.config import JobSettings, with_later_keys
from nc_medfl.errors import UserError


def settings_of(
    matrix: Matrix, key: RunKey, more: Mapping[str, Any] | None = None, *, test: bool = True, files: bool = True
) -> dict[str, Any]:
    """What decides a run's numbers, as JSON values; two runs with equal ones need not both be made.

    Args:
        matrix: the study.
        key: which run.
        more: job settings on top, such as a search found.
        test: whether the test split is measured.
        files: False leaves out what the data and initial weights are, which has to be read from them.

    Raises:
        UserError: if data or initial weights are not there.
    """
    return {
        **({} if test else {"splits": ["val"]}),
        "dataset": matrix.datasets[key.dataset].model_dump(mode="json", exclude={"path", "expected"}),
        "partition": matrix.partitions[key.partition].model_dump(mode="json"),
        "job": _job(job_of(matrix, key.method, seed=key.seed, more=more), files=files),
        "regime": regime_of(matrix, key.method),
        "evaluation": matrix.evaluation.model_dump(mode="json"),
        "engine": matrix.engine,
        "data": source_print(matrix.datasets[key.dataset]) if files else "",
        "version": pools.VERSION,
    }


def is_of(run: Mapping[str, Any], matrix: Matrix, key: RunKey, more: Mapping[str, Any] | None = None) -> bool:
    """Whether a run is one that a matrix as it is now would make.

    Where its data or initial weights aren't at hand, they are taken for those that it was made with.

    Args:
        run: its ``run.json``.
        matrix: the study; ``key`` and ``more`` as for :func:`settings_of`.
    """
    made = with_new_keys(run.get("settings"))
    try:
        return bool(made == settings_of(matrix, key, more))
    except UserError:
        wanted = settings_of(matrix, key, more, files=False)
    if not isinstance(made, dict) or not isinstance(made.get("job"), dict):
        return False
    network = {**made["job"]["network"], "init_weights": wanted["job"]["network"]["init_weights"]}
    return bool({**made, "data": "", "job": {**made["job"], "network": network}} == wanted)


def _job(settings: JobSettings, *, files: bool) -> dict[str, Any]:
    """A job's settings with what its initial weights are in the place of where they lie."""
    content = settings.model_dump(mode="json")
    if settings.network.init_weights is not None:
        content["network"]["init_weights"] = _print_of(Path(settings.network.init_weights)) if files else ""
    return content


@lru_cache(maxsize=4)
def _print_of(weights: Path) -> str:
    if not weights.is_file():
        raise UserError(f"init_weights: no file {weights}. Give --weights a local file with a state dict.")
    return blake(weights)


def with_new_keys(settings: Any) -> Any:
    """A run's settings as it wrote them, and those that the package has got since at their defaults, as they were."""
    if not isinstance(settings, dict) or not isinstance(settings.get("job"), dict):
        return settings
    dealt = {**PartitionSpec().model_dump(mode="json"), **settings.get("partition", {})}
    return {**settings, "job": with_later_keys(settings["job"]), "partition": dealt}
