"""FLARE filters that change the type of a model's numbers on the way (``transfer`` of a job), both ways.

Whoever sends narrows last, whoever receives widens first, so neither the server's model nor a site's is ever anything
but float32. Integer buffers travel as they are; the frame and fixed queries never travel.
"""

from __future__ import annotations

from typing import Any

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable

from nc_medfl.federation import keys
from nc_medfl.federation.wire import from_wire, own_meta, payload_bytes, to_wire

#: Tasks whose data is a model.
MODEL_TASKS = (keys.TASK_TRAIN, keys.TASK_VALIDATE, keys.TASK_EVALUATE)


class NarrowFilter(DXOFilter):  # type: ignore[misc]  # nvflare ships no types
    """Narrows a model that is about to be sent.

    Args:
        transfer: as the job says.
    """

    def __init__(self, transfer: str) -> None:
        super().__init__([DataKind.WEIGHTS], [DataKind.WEIGHTS])
        self.transfer = transfer

    def process_dxo(self, dxo: DXO, _shareable: Shareable, _fl_ctx: FLContext) -> DXO:
        """A new message; the sender's own model is left as it is."""
        return DXO(dxo.data_kind, data=to_wire(dxo.data, self.transfer), meta=dxo.meta)


class WidenFilter(DXOFilter):  # type: ignore[misc]  # nvflare ships no types
    """Widens a model that has come, and notes how many bytes its numbers were.

    Args:
        transfer: as the job says.
    """

    def __init__(self, transfer: str) -> None:
        super().__init__([DataKind.WEIGHTS], [DataKind.WEIGHTS])
        self.transfer = transfer

    def process_dxo(self, dxo: DXO, _shareable: Shareable, _fl_ctx: FLContext) -> DXO:
        """A new message with float32 numbers."""
        given: Any = dxo.meta if isinstance(dxo.meta, dict) else {}
        meta = {**given, keys.BYTES: payload_bytes(dxo.data, own_meta(given))}
        data = from_wire(dxo.data, self.transfer) if isinstance(dxo.data, dict) else dxo.data
        return DXO(dxo.data_kind, data=data, meta=meta)


def add_transfer_filters(recipe: Any, transfer: str) -> None:
    """Put the four filters into a recipe; none for float32.

    Args:
        recipe: a FLARE recipe whose client apps can be prepared.
        transfer: ``float32``, ``float16`` or ``bfloat16``.
    """
    if transfer == "float32":
        return
    models, updates = list(MODEL_TASKS), [keys.TASK_TRAIN]
    recipe.add_server_output_filter(NarrowFilter(transfer), tasks=models)
    recipe.add_client_input_filter(WidenFilter(transfer), tasks=models)
    recipe.add_client_output_filter(NarrowFilter(transfer), tasks=updates)
    recipe.add_server_input_filter(WidenFilter(transfer), tasks=updates)
