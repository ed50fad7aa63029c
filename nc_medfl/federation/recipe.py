"""The FLARE job of a federated method: FLARE's FedAvg recipe with our controller, aggregator and executor.

The job holds settings only: no code (every class is in the installed package), no path, no data. So it
runs at sites whose policy forbids code from elsewhere.
"""

from __future__ import annotations

from typing import Any

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.client.config import ExchangeFormat

from nc_medfl.config import JobSettings
from nc_medfl.federation.aggregator import NCAwareAggregator
from nc_medfl.federation.arguments import to_arguments
from nc_medfl.federation.client import SiteExecutor
from nc_medfl.federation.controller import FederationController
from nc_medfl.federation.filters import add_transfer_filters
from nc_medfl.federation.persistor import GlobalModelPersistor
from nc_medfl.federation.scaffold import ScaffoldAggregator, ScaffoldController
from nc_medfl.federation.tracking import receiver_of


class FedNCARecipe(FedAvgRecipe):  # type: ignore[misc]  # nvflare ships no types
    """A federation of FedNCA-ML, or of the baseline that ``settings.method`` names.

    Args:
        settings: the job's settings.
        min_clients: sites that must be there before the first round. FLARE ends a job that has fewer, so
            ``federation.min_sites`` takes its place where it asks for fewer.
    """

    def __init__(self, settings: JobSettings, *, min_clients: int) -> None:
        # Only the persistor, which makes the first global model, is told where weights lie on the server.
        self._arguments = to_arguments(settings.for_sites())
        scaffold = settings.method == "scaffold"
        aggregator_class = ScaffoldAggregator if scaffold else NCAwareAggregator
        self._controller_class = ScaffoldController if scaffold else FederationController
        super().__init__(
            name=settings.name,
            min_clients=min(min_clients, settings.federation.min_sites or min_clients),
            num_rounds=settings.rounds,
            train_script="",  # sites run an executor of the installed package instead
            aggregator=aggregator_class(self._arguments),
            model_persistor=GlobalModelPersistor(to_arguments(settings)),
            server_expected_format=ExchangeFormat.PYTORCH,
        )
        self._job.set_app_packages(["nc_medfl"])
        add_transfer_filters(self, settings.transfer)
        if (receiver := receiver_of(settings)) is not None:
            self._job.to_server(receiver, id="tracking")

    def _create_controller(
        self, persistor_id: str, model_params: Any, model_aggregator: NCAwareAggregator
    ) -> FederationController:
        return self._controller_class(
            settings=self._arguments,
            num_clients=self.min_clients,
            num_rounds=self.num_rounds,
            persistor_id=persistor_id,
            model=model_params,
            aggregator=model_aggregator,
        )

    def _prepare_client_apps(self) -> None:
        self._job.to_clients(SiteExecutor(self._arguments), tasks=["*"])
