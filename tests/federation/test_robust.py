"""Median and trimmed mean over sites, beside SciPy, and in stretches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import trim_mean

from nc_medfl.federation import robust as robust_module
from nc_medfl.federation.robust import combiner, median, robust_average, trimmed_mean
from nc_medfl.federation.spool import Spool

VALUES = arrays(np.float64, st.tuples(st.integers(1, 9), st.just(4)), elements=st.floats(-1e3, 1e3))


@given(values=VALUES)
def test_median_equals_numpy(values: np.ndarray) -> None:
    np.testing.assert_allclose(median(torch.from_numpy(values)).numpy(), np.median(values, axis=0), atol=1e-12)


CUTS = [(5, 0.2, 1), (5, 0.1, 1), (10, 0.2, 2), (3, 0.49, 1), (2, 0.4, 0)]


@pytest.mark.parametrize(("sites", "fraction", "cut"), CUTS)
def test_trimmed_mean_equals_scipy_with_whole_sites_cut(sites: int, fraction: float, cut: int) -> None:
    values = np.random.default_rng(sites).normal(size=(sites, 6))
    expected = trim_mean(values, (cut + 0.01) / sites, axis=0) if cut else values.mean(axis=0)
    np.testing.assert_allclose(trimmed_mean(torch.from_numpy(values), fraction).numpy(), expected)


def test_nothing_is_cut_at_fraction_zero() -> None:
    values = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(trimmed_mean(values, 0.0), values.mean(dim=0))


def in_memory(models: list[dict[str, torch.Tensor]]) -> robust_module.Reader:
    return lambda site, name, start, stop: models[site][name].reshape(-1)[start:stop]


def test_only_sites_with_a_positive_have_a_say_in_a_class_by_hand() -> None:
    previous = {"head": torch.zeros(2, 3), "steps": torch.tensor(0)}
    models = [{"head": torch.full((2, 3), v), "steps": torch.tensor(s)} for v, s in ((1.0, 1), (2.0, 2), (9.0, 4))]
    # Class 0: all three, median 2. Class 1: sites 0 and 2 (2 withholds), 5. Class 2: nobody, keeps 0.
    positives = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, np.nan, 0.0]])
    out = robust_average(previous, in_memory(models), 3, median, class_axes={"head": 1}, positives=positives)
    torch.testing.assert_close(out["head"], torch.tensor([[2.0, 5.0, 0.0]] * 2))
    assert out["steps"].item() == 2
    assert out["steps"].dtype == torch.int64


@pytest.mark.parametrize("name", ["median", "trimmed_mean"])
def test_stretches_of_a_parameter_give_what_the_whole_gives(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    previous = {"w": torch.zeros(7, 5), "head": torch.zeros(4, 3), "n": torch.tensor(0), "empty": torch.zeros(0)}
    models = [
        {
            "w": torch.randn(7, 5, generator=generator),
            "head": torch.randn(4, 3, generator=generator),
            "n": torch.tensor(site),
            "empty": torch.zeros(0),
        }
        for site in range(5)
    ]
    positives = np.random.default_rng(0).integers(0, 2, (5, 3)).astype(float)
    combine = combiner(name, 0.2)
    whole = robust_average(previous, in_memory(models), 5, combine, class_axes={"head": 1}, positives=positives)
    monkeypatch.setattr(robust_module, "_STRETCH", 8 * 5 * 3)  # three numbers at a time, from disk
    spool = Spool(previous, tmp_path)
    files = [spool.put(model) for model in models]
    parts = robust_average(
        previous,
        lambda site, key, start, stop: spool.read(files[site], key, start, stop),
        5,
        combine,
        class_axes={"head": 1},
        positives=positives,
    )
    assert all(torch.equal(whole[key], parts[key]) for key in previous)
    if name == "median":
        torch.testing.assert_close(whole["w"], torch.from_numpy(np.median([m["w"].numpy() for m in models], axis=0)))


def test_a_spool_gives_back_every_type_bit_by_bit_and_leaves_nothing(tmp_path: Path) -> None:
    model = {
        "f": torch.tensor([1.5, -0.0, 3e-45]),
        "h": torch.tensor([[1.0], [2.0]], dtype=torch.float16),
        "b": torch.tensor([0.1], dtype=torch.bfloat16),
        "i": torch.tensor(2**40),
        "t": torch.tensor([True, False]),
    }
    spool = Spool(model, tmp_path)
    back = spool.read_all(spool.put(model))
    assert all(torch.equal(back[name], value) and back[name].dtype == value.dtype for name, value in model.items())
    spool.close()
    assert not spool.folder.exists()


def test_a_spool_removes_what_a_killed_process_left_and_what_is_forgotten(tmp_path: Path) -> None:
    left = tmp_path / "nc_medfl-updates-old"
    left.mkdir()
    (left / "000000.bin").write_bytes(b"x")
    spool = Spool({"w": torch.zeros(1)}, tmp_path)
    spool.put({"w": torch.zeros(1)})
    assert not left.exists()
    del spool
    assert list(tmp_path.iterdir()) == []
