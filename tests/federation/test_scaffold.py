"""The server's side of SCAFFOLD: what moves its control variate, what is refused, what is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nvflare.app_common.abstract.fl_model import FLModel

from nc_medfl import __version__
from nc_medfl.config import JobSettings
from nc_medfl.federation import keys
from nc_medfl.federation.aggregator import RefusedUpdate
from nc_medfl.federation.arguments import to_arguments
from nc_medfl.federation.scaffold import ScaffoldAggregator
from nc_medfl.federation.state import RoundStore
from nc_medfl.labels import load_vocabulary
from nc_medfl.settings import parse
from nc_medfl.training.methods import join_extras
from nc_medfl.training.model import build_network, fingerprints, save_model

SETTINGS = parse(JobSettings, {"method": "scaffold", "network": {"backbone": "small"}}, where="test").for_sites()
NETWORK = build_network(SETTINGS)
PRINTS = {**fingerprints(NETWORK, load_vocabulary("nih14")), "package": __version__, "preparation": "0" * 16}


def an_aggregator(n_sites: int, **rules: Any) -> ScaffoldAggregator:
    content = {"method": "scaffold", "network": {"backbone": "small"}, "aggregation": rules}
    aggregator = ScaffoldAggregator(to_arguments(parse(JobSettings, content, where="test").for_sites()))
    aggregator.warning = lambda _text: None  # outside FLARE there is no context to log with
    aggregator.n_sites = n_sites
    return aggregator


def an_answer(site: str, change: float, **replaced: torch.Tensor) -> FLModel:
    changes = {name: torch.full_like(value.detach(), change) for name, value in NETWORK.named_parameters()} | replaced
    meta: dict[str, Any] = {
        "client_name": site,
        keys.FINGERPRINTS: PRINTS,
        keys.N_SAMPLES: 10,
        keys.COUNTS: [[5.0] * 14, [5.0] * 14],
        keys.LOSSES: json.dumps({"loss": 1.0}),
    }
    return FLModel(params=join_extras(NETWORK.state_dict(), changes), meta=meta)


def test_the_control_moves_by_the_sum_of_changes_over_all_sites() -> None:
    # Two of four sites answer, with changes of 1 and 3 everywhere: (1 + 3) / 4 = 1; and again, 2.
    aggregator = an_aggregator(4)
    for expected in (1.0, 2.0):
        aggregator.reset_stats()
        aggregator.accept_model(an_answer("a", 1.0))
        aggregator.accept_model(an_answer("b", 3.0))
        model = aggregator.aggregate_model()
        assert set(model.params) == set(NETWORK.state_dict())
        assert all(bool((value == expected).all()) for value in aggregator.controls.values())
    aggregator.reset_stats()
    aggregator.aggregate_model()
    assert all(bool((value == 2.0).all()) for value in aggregator.controls.values())


@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.int64])
def test_a_control_of_another_type_is_refused(kind: torch.dtype) -> None:
    aggregator = an_aggregator(2)
    aggregator.reset_stats()
    name, value = next(NETWORK.named_parameters())
    with pytest.raises(RefusedUpdate, match="another shape or kind"):
        aggregator.accept_model(an_answer("a", 1.0, **{name: torch.ones_like(value.detach(), dtype=kind)}))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        # Four of eight sites answer, with changes of 1, 2, 3 and 1000 everywhere.
        ({"norm_policy": "off"}, 1006 / 8),
        ({"robust": "median"}, 2.5 * 4 / 8),
        # A quarter of four is one: 1 and 1000 are left out.
        ({"robust": "trimmed_mean", "trim_fraction": 0.25}, 2.5 * 4 / 8),
        # The median length is that of a change of 2.5: 3 and 1000 become that.
        ({"robust": "norm_clip"}, (1 + 2 + 2.5 + 2.5) / 8),
        # By default 1000 becomes 30 times 2.5.
        ({}, (1 + 2 + 3 + 75) / 8),
    ],
    ids=["mean", "median", "trimmed", "clipped", "default"],
)
def test_a_poisoned_control_moves_the_servers_as_far_as_the_rules_let_it(
    rules: dict[str, Any], expected: float
) -> None:
    aggregator = an_aggregator(8, **rules)
    aggregator.reset_stats()
    for site, change in (("a", 1.0), ("b", 2.0), ("c", 1000.0), ("d", 3.0)):
        aggregator.accept_model(an_answer(site, change))
    aggregator.aggregate_model()
    for value in aggregator.controls.values():
        torch.testing.assert_close(value, torch.full_like(value, expected), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "broken",
    [
        {"head.output.bias": torch.full((14,), torch.inf)},
        {"head.output.bias": torch.zeros(3)},
        {"more": torch.zeros(1)},
    ],
    ids=["infinite", "shape", "unknown"],
)
def test_an_update_with_a_control_that_does_not_fit_is_refused_whole(broken: dict[str, torch.Tensor]) -> None:
    aggregator = an_aggregator(2)
    with pytest.raises(RefusedUpdate, match="control variate"):
        aggregator.accept_model(an_answer("a", 1.0, **broken))
    assert aggregator.log[-1]["outcome"] == "refused"
    aggregator.aggregate_model()
    assert all(bool((value == 0).all()) for value in aggregator.controls.values())


def test_the_control_is_kept_with_each_finished_round(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    for name in (keys.ROUNDS_CSV, keys.COLLAPSE_CSV, keys.UPDATES_CSV, keys.PRIVACY_CSV):
        (results / name).write_text("")
    save_model(results / keys.LAST_MODEL, NETWORK.state_dict(), SETTINGS, rounds=1, prints=PRINTS)
    torch.save({"w": torch.ones(2)}, results / keys.CONTROLS)
    store = RoundStore(tmp_path / "state", SETTINGS, "job")
    store.save(results, 1, None, "0" * 32)
    saved = store.find()
    assert saved is not None
    assert saved.files() == [keys.LAST_MODEL, keys.CONTROLS]
    assert torch.equal(torch.load(saved.folder / keys.CONTROLS, weights_only=True)["w"], torch.ones(2))
