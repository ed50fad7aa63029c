"""Where the server keeps the global model: FLARE's PyTorch file persistor, told by our settings.

A class of our own, since FLARE's default policy for sites without custom code does not list the persistor;
with it, ``nc_medfl.`` is all that a site's ``class_allow_list`` has to gain.
"""

from __future__ import annotations

from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.app_opt.pt.file_model_persistor import PTFileModelPersistor

from nc_medfl.federation.arguments import from_arguments
from nc_medfl.training.model import build_network


class GlobalModelPersistor(PTFileModelPersistor):  # type: ignore[misc]  # nvflare ships no types
    """Builds the first global model when the job starts, on the server, and saves the later ones.

    Args:
        settings: what :func:`nc_medfl.federation.arguments.to_arguments` makes of the job's settings,
            with the path of the weights to start from, if any.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(allow_numpy_conversion=False)  # tensors stay tensors
        self.settings = settings

    def _initialize(self, fl_ctx: FLContext) -> None:
        self.model = build_network(from_arguments(self.settings), pretrained=True)
        super()._initialize(fl_ctx)
