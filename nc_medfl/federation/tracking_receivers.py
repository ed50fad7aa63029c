"""FLARE's TensorBoard receiver, fed by the server's own tables.

Classes of our own, so that ``nc_medfl.`` is all that a server's ``class_allow_list`` has to gain.
"""

from __future__ import annotations

from nvflare.apis.fl_constant import ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_opt.tracking.tb.tb_receiver import TBAnalyticsReceiver

from nc_medfl.federation import keys
from nc_medfl.federation.tracking import EVENT


class TensorBoardReceiver(TBAnalyticsReceiver):  # type: ignore[misc]  # nvflare ships no types
    """Writes event files into the results folder, a folder for each site and one for the federation."""

    def __init__(self) -> None:
        super().__init__(tb_folder=f"{keys.RESULTS_FOLDER}/{keys.TENSORBOARD}", events=[EVENT])

    def _get_record_origin(self, _fl_ctx: FLContext, data: Shareable) -> str | None:
        return whose(data)


def whose(data: Shareable) -> str | None:
    """The site, or the federation, that a value is of."""
    name: str | None = data.get_peer_prop(ReservedKey.IDENTITY_NAME, None)
    return name
