"""Scores and losses for TensorBoard and MLflow, as the server writes them down.

The server alone tells, from the rows of its own tables, through FLARE's receivers; sites send nothing more for it. What
is one site's goes under that site's name, and what is the federation's under :data:`FEDERATION`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nc_medfl.config import JobSettings
from nc_medfl.errors import UserError
from nc_medfl.federation import keys

#: The event of a value, on the server alone.
EVENT = "nc_medfl.tracking"
#: The name that the federation's own values go under, beside those of the sites.
FEDERATION = "federation"

_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}


def check_tracking(settings: JobSettings) -> None:
    """Check that what a job's ``tracking`` takes is installed.

    Raises:
        UserError: if it is not.
    """
    package = _PACKAGES.get(settings.tracking)
    if package and importlib.util.find_spec(package) is None:
        raise UserError(
            f"tracking: {settings.tracking}: the package {package} is not installed. "
            "pip install 'nc_medfl[tracking]', or set tracking=none."
        )


def receiver_of(settings: JobSettings) -> Any:
    """FLARE's receiver for a job's ``tracking``, or None."""
    if settings.tracking == "tensorboard":
        from nc_medfl.federation.tracking_receivers import TensorBoardReceiver

        return TensorBoardReceiver()
    if settings.tracking == "mlflow":
        from nc_medfl.federation.tracking_mlflow import MLflowServerReceiver

        return MLflowServerReceiver(settings.name)
    return None


def values_of(table: str, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, float]]:
    """What to tell of rows of the server's tables: whose it is, a tag, and the value.

    Args:
        table: ``rounds.csv``, ``collapse.csv`` or ``updates.csv``.
        rows: of one round. Undefined values are left out.

    Example:
        >>> values_of("collapse.csv", [{"finding": "all", "metric": "nc1", "value": 0.5}])
        [('federation', 'collapse/nc1', 0.5)]
    """
    if table == keys.UPDATES_CSV:
        accepted = sum(row["outcome"] == "accepted" for row in rows)
        return [(FEDERATION, "updates/accepted", float(accepted)), (FEDERATION, "updates/sites", float(len(rows)))]
    found = []
    for row in rows:
        value = row.get("value")
        if value is not None and np.isfinite(value):
            site = str(row.get("site", "all"))
            found.append((FEDERATION if site == "all" else site, _tag(row), float(value)))
    return found


def _tag(row: Mapping[str, Any]) -> str:
    start = f"{row.get('split', 'collapse')}/{row['metric']}"
    finding = str(row["finding"])
    if finding == "all":
        return start
    # Not below a tag of its own: a store of files would need a file and a folder of one name.
    return f"{start}_{finding}"


class Tracker:
    """Tells FLARE's receivers what the server writes down.

    Args:
        controller: the server's workflow.
    """

    def __init__(self, controller: Any) -> None:
        self._controller = controller

    def __call__(self, table: str, round_number: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Tell of rows of one round."""
        from nvflare.apis.analytix import AnalyticsData, AnalyticsDataType, TrackConst
        from nvflare.apis.fl_constant import FLContextKey, ReservedKey

        with self._controller.engine.new_context() as context:
            for whose, tag, value in values_of(table, rows):
                step = {TrackConst.GLOBAL_STEP_KEY: round_number}
                message = AnalyticsData(tag, value, AnalyticsDataType.SCALAR, **step).to_dxo().to_shareable()
                message.set_peer_props({ReservedKey.IDENTITY_NAME: whose})
                self._controller.fire_event_with_data(EVENT, context, FLContextKey.EVENT_DATA, message)
