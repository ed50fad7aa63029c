"""The FLARE job of any kind of job."""

from __future__ import annotations

from nvflare.job_config.api import FedJob
from nvflare.recipe.spec import Recipe

from nc_medfl.config import JobSettings
from nc_medfl.federation.arguments import to_arguments
from nc_medfl.federation.client import SiteExecutor
from nc_medfl.federation.recipe import FedNCARecipe
from nc_medfl.federation.workflows.base import QuestionController
from nc_medfl.federation.workflows.evaluate import EvaluateController
from nc_medfl.federation.workflows.label_statistics import LabelStatisticsController

_CONTROLLERS: dict[str, type[QuestionController]] = {
    "label_statistics": LabelStatisticsController,
    "evaluate": EvaluateController,
}


class QuestionRecipe(Recipe):  # type: ignore[misc]  # nvflare ships no types
    """A job that asks every site one thing. Like those that train, it holds settings only: no code, no data.

    Args:
        settings: the job's; only the controller, on the server, is told where a model lies there.
        min_clients: sites that must be there; ``federation.min_sites`` takes its place where it asks for fewer.
    """

    def __init__(self, settings: JobSettings, *, min_clients: int) -> None:
        # The sites get what a path of the server's implies, and not the path.
        at_server = settings.for_sites().model_copy(update={"model": settings.model})
        job = FedJob(name=settings.name, min_clients=min(min_clients, settings.federation.min_sites or min_clients))
        job.set_app_packages(["nc_medfl"])
        controller = _CONTROLLERS[settings.kind]
        job.to_server(controller(settings=to_arguments(at_server), num_clients=min_clients, num_rounds=1))
        self._arguments = to_arguments(settings.for_sites())
        super().__init__(job)

    def _prepare_client_apps(self) -> None:
        self._job.to_clients(SiteExecutor(self._arguments), tasks=["*"])


def make_recipe(settings: JobSettings, *, min_clients: int) -> Recipe:
    """The recipe of a job, by its kind.

    Args:
        settings: the job's.
        min_clients: sites that must be there.
    """
    if settings.kind == "train":
        return FedNCARecipe(settings, min_clients=min_clients)
    return QuestionRecipe(settings, min_clients=min_clients)
