"""What an update's tensors must be."""

from __future__ import annotations

import pytest
import torch

from nc_medfl.federation.checks import is_finite

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
