"""What an update's tensors must be."""

from __future__ import annotations

import pytest
import torch

from nc_medfl.federation.checks import checked_params, is_finite
from nc_medfl.federation.refusal import RefusedUpdate

LARGEST = torch.finfo(torch.float32).max


@pytest.mark.parametrize(
    ("values", "finite"),
    [
        ([], True),
        ([1.0, -2.0], True),
        ([LARGEST, LARGEST, 1.0], True),  # their sum is an infinity
        ([LARGEST, LARGEST, -LARGEST, -LARGEST], True),
        ([1.0, torch.nan], False),
        ([torch.inf, 1.0], False),
        ([torch.inf, -torch.inf], False),
        ([LARGEST, LARGEST, -torch.inf], False),
    ],
)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_no_nan_and_no_infinity_is_missed_and_large_numbers_are_numbers(
    values: list[float], finite: bool, kind: torch.dtype
) -> None:
    assert is_finite(torch.tensor(values, dtype=kind)) is finite
    # Among many, wherever a vectorised sum has put it.
    assert is_finite(torch.cat([torch.ones(1013, dtype=kind), torch.tensor(values, dtype=kind)])) is finite


def test_half_precision_sums_go_over_sooner() -> None:
    assert is_finite(torch.full((4096,), 60_000.0, dtype=torch.float16))
    assert not is_finite(torch.tensor([60_000.0, torch.inf], dtype=torch.float16))


@pytest.mark.parametrize("name", ["bn.running_var", "running_var", "bn.num_batches_tracked"])
def test_what_can_not_be_under_0_is_refused_there_and_nowhere_else(name: str) -> None:
    # A variance under 0 in the average makes every later score a NaN, at every site.
    previous = {name: torch.tensor([1, 2]), "bn.running_mean": torch.tensor([1.0, 2.0])}
    fine = {name: torch.tensor([0, 3]), "bn.running_mean": torch.tensor([-1.0, 2.0])}
    assert checked_params(fine, previous).keys() == previous.keys()
    with pytest.raises(RefusedUpdate, match="under 0"):
        checked_params({**fine, name: torch.tensor([1, -1])}, previous)
