"""FedAvg, the plain baseline, on chest radiographs. ``python jobs/fedavg_cxr/job.py --help``."""

from __future__ import annotations

from pathlib import Path

from nc_medfl.config import JobSettings


def build_recipe(settings: JobSettings, *, min_clients: int) -> object:
    """The FLARE recipe of this job."""
    from nc_medfl.federation.workflows.recipe import make_recipe

    return make_recipe(settings, min_clients=min_clients)


if __name__ == "__main__":
    from nc_medfl.cli.run import main_of_job

    main_of_job(Path(__file__).parent)
