"""Half-precision transfer: what travels, what arrives, and that both ends stay float32."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.decomposers import common_decomposers
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_opt.pt.decomposers import TensorDecomposer
from nvflare.fuel.utils import fobs
from updates_support import SETTINGS, a_step, an_update, start

from nc_medfl.federation import keys
from nc_medfl.federation.aggregator import NCAwareAggregator, RefusedUpdate
from nc_medfl.federation.arguments import to_arguments
from nc_medfl.federation.filters import MODEL_TASKS, NarrowFilter, WidenFilter, add_transfer_filters
from nc_medfl.federation.wire import from_wire, payload_bytes, to_wire

HALF = ["float16", "bfloat16"]


class Context(FLContext):
    """Outside FLARE there is no engine to write an audit event to."""

    def get_engine(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(fire_event=lambda *_: None)


def through(filters: list[Any], shareable: Shareable) -> Shareable:
    for each in filters:
        shareable = each.process(shareable, Context())
    return shareable


def over_the_wire(shareable: Shareable) -> Shareable:
    # As FLARE's processes do when they start.
    common_decomposers.register()
    fobs.register(TensorDecomposer)
    received: Shareable = fobs.loads(fobs.dumps(shareable))
    return received


def an_aggregator(transfer: str) -> NCAwareAggregator:
    made = NCAwareAggregator(to_arguments(SETTINGS.model_copy(update={"transfer": transfer})))
    made.warning = lambda _text: None
    made.set_previous(start())
    return made


def numbers(params: dict[str, torch.Tensor]) -> int:
    return sum(value.numel() for value in params.values() if value.is_floating_point())


@pytest.mark.parametrize("transfer", HALF)
def test_an_update_arrives_in_float32_with_half_the_bytes_on_the_way(transfer: str) -> None:
    update = a_step("a", 1)
    sent = dict(update.params)
    shareable = FLModelUtils.to_shareable(FLModel(params=update.params, meta=update.meta))
    travelling = through([NarrowFilter(transfer)], shareable)
    full, half = payload_bytes(sent), payload_bytes(travelling["DXO"]["data"])
    assert full - half == 2 * numbers(sent)
    arrived = FLModelUtils.from_shareable(through([WidenFilter(transfer)], over_the_wire(travelling)))
    eps = torch.finfo(getattr(torch, transfer)).eps
    for name, value in sent.items():
        assert arrived.params[name].dtype == value.dtype, name
        if value.is_floating_point():
            torch.testing.assert_close(arrived.params[name], value, rtol=eps, atol=1e-7)
        else:
            assert torch.equal(arrived.params[name], value)
    arrived.meta["client_name"] = "a"
    aggregator = an_aggregator(transfer)
    aggregator.accept_model(arrived)
    assert aggregator.log[0]["outcome"] == "accepted"
    assert half < aggregator.log[0]["bytes_up"] < half + 50_000
    assert all(v.dtype == start()[n].dtype for n, v in aggregator.aggregate_model().params.items())


def test_the_sender_s_own_model_is_left_as_it_is() -> None:
    model = start()
    message = FLModelUtils.to_shareable(FLModel(params=model))
    through([NarrowFilter("float16")], message)
    through([NarrowFilter("float16")], message)  # a second site is served from the same message
    assert all(value.dtype == start()[name].dtype for name, value in model.items())
    assert all(torch.equal(value, start()[name]) for name, value in model.items())


def test_what_float16_can_not_hold_travels_in_float32() -> None:
    big = {"running_var": torch.tensor([1.0, 7e4]), "weight": torch.tensor([1.0, 2.0])}
    sent = to_wire(big, "float16")
    assert (sent["running_var"].dtype, sent["weight"].dtype) == (torch.float32, torch.float16)
    back = from_wire(sent, "float16")
    assert all(torch.equal(back[name], value) for name, value in big.items())


def test_a_nan_is_still_one_on_the_other_side() -> None:
    back = from_wire(to_wire({"w": torch.tensor([float("nan"), float("inf")])}, "float16"), "float16")
    assert torch.isnan(back["w"][0])
    assert torch.isinf(back["w"][1])


@pytest.mark.parametrize(("told", "sent"), [("float32", torch.float16), ("float16", torch.bfloat16)])
def test_another_type_than_the_job_s_is_refused(told: str, sent: torch.dtype) -> None:
    update = an_update("a")
    update.params = {n: v.to(sent) if v.is_floating_point() else v for n, v in update.params.items()}
    update.params = from_wire(update.params, told)
    with pytest.raises(RefusedUpdate, match="is torch"):
        an_aggregator(told).accept_model(update)


def test_a_site_does_not_tell_the_server_how_many_bytes_came() -> None:
    aggregator = an_aggregator("float32")
    aggregator.accept_model(an_update("a", meta={keys.BYTES: 1}))
    assert aggregator.log[0]["bytes_up"] > 10_000
    dxo = DXO(DataKind.WEIGHTS, data={"w": torch.zeros(10, dtype=torch.float16)}, meta={keys.BYTES: 10**9})
    counted = through([WidenFilter("float16")], dxo.to_shareable())
    assert counted["DXO"]["meta"][keys.BYTES] == 20


def test_answers_without_a_model_pass_unchanged() -> None:
    report = FLModelUtils.to_shareable(FLModel(metrics={"answered": 1.0}, meta={keys.ROWS: "[]"}))
    assert FLModelUtils.from_shareable(through([NarrowFilter("float16")], report)).meta == {keys.ROWS: "[]"}


def test_payload_bytes_by_hand() -> None:
    params = {"w": torch.zeros(3, 2), "n": torch.tensor(1), "h": torch.zeros(5, dtype=torch.float16)}
    assert payload_bytes(params) == 6 * 4 + 8 + 5 * 2
    assert payload_bytes(None, {"a": np.zeros(4), "b": "é", "c": 1.0, "d": [1, {"e": b"xyz"}], "f": None}) == (
        32 + 2 + 8 + 8 + 3
    )


def test_frozen_parts_do_not_travel() -> None:
    assert not [name for name in start() if "frame" in name or "class_queries" in name]


def test_only_a_half_precision_job_has_filters_one_at_each_end_and_way() -> None:
    made: list[tuple[str, str, list[str]]] = []

    def recorder(where: str) -> Any:
        return lambda each, tasks: made.append((where, type(each).__name__, tasks))

    places = ("server_output", "client_input", "client_output", "server_input")
    recipe = SimpleNamespace(**{f"add_{place}_filter": recorder(place) for place in places})
    add_transfer_filters(recipe, "float32")
    assert made == []
    add_transfer_filters(recipe, "bfloat16")
    assert made == [
        ("server_output", "NarrowFilter", list(MODEL_TASKS)),
        ("client_input", "WidenFilter", list(MODEL_TASKS)),
        ("client_output", "NarrowFilter", ["train"]),
        ("server_input", "WidenFilter", ["train"]),
    ]
