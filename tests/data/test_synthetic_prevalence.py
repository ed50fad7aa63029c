"""Label sets are drawn as often, and together, as in the NIH table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nc_medfl.data.synthetic import combination_weights, sample_findings
from nc_medfl.data.synthetic.nih_counts import NIH_FINDINGS, nih_combinations
from nc_medfl.errors import UserError

# Films with each finding as published with ChestX-ray14 (Data_Entry_2017_v2020), in the vocabulary's order.
PUBLISHED = [11559, 2776, 4667, 2303, 13317, 2516, 1686, 227, 19894, 5782, 6331, 3385, 1431, 5302]


def matrix(sets: list[tuple[str, ...]]) -> np.ndarray:
    return np.array([[name in found for name in NIH_FINDINGS] for found in sets], dtype=float)


def nih_co_occurrence() -> np.ndarray:
    """Films with both findings; on the diagonal those with the one."""
    members, counts = nih_combinations()
    return (members * counts[:, None]).T @ members.astype(np.int64)


def test_baked_in_numbers_are_the_published_ones():
    members, counts = nih_combinations()
    assert counts.sum() == 112_120
    assert counts[~members.any(axis=1)].tolist() == [60_361]
    assert np.diag(nih_co_occurrence()).tolist() == PUBLISHED
    assert len(np.unique(members, axis=0)) == len(members)


def test_baked_in_co_occurrence_equals_the_real_table(shared_data: Path):
    table = pd.read_csv(shared_data / "nih_labels" / "Data_Entry_2017_v2020.csv.gz")
    listed = table["Finding Labels"].str.split("|").map(set)
    real = np.array([[name in found for name in NIH_FINDINGS] for found in listed], dtype=np.int64)
    assert np.array_equal(nih_co_occurrence(), real.T @ real)


def test_without_enrichment_prevalence_and_co_occurrence_are_those_of_the_table():
    drawn = matrix(sample_findings(20_000, np.random.default_rng(0)))
    assert drawn.mean(axis=0) == pytest.approx(np.array(PUBLISHED) / 112_120, abs=0.004)
    assert (drawn.T @ drawn) / 20_000 == pytest.approx(nih_co_occurrence() / 112_120, abs=0.004)


def test_every_finding_reaches_its_floor_and_missing_ones_never_come():
    drawn = matrix(
        sample_findings(
            4_000, np.random.default_rng(1), floor=0.08, emphasis={"Hernia": 0.2}, missing=("Edema", "Mass")
        )
    )
    share = dict(zip(NIH_FINDINGS, drawn.mean(axis=0), strict=True))
    assert share.pop("Edema") == share.pop("Mass") == 0.0
    assert share["Hernia"] == pytest.approx(0.2, abs=0.01)
    assert min(share.values()) > 0.075


def test_enrichment_keeps_what_occurs_with_the_enriched_finding():
    # Hernia is the rarest, so all of its sets take its factor: shares of its companions stay exactly as counted.
    weights = combination_weights(floor=0.0, emphasis={"Hernia": 0.1})
    members, counts = nih_combinations()
    hernia = members[:, NIH_FINDINGS.index("Hernia")]
    assert weights[hernia] / weights[hernia].sum() == pytest.approx(counts[hernia] / counts[hernia].sum())
    assert weights.sum() == pytest.approx(1.0)


def test_a_small_draw_already_has_the_prevalence_asked_for():
    weights = combination_weights(floor=0.085)
    expected = weights @ nih_combinations()[0]
    for seed in range(5):
        drawn = matrix(sample_findings(250, np.random.default_rng(seed), floor=0.085)).mean(axis=0)
        assert np.abs(drawn - expected).max() < 0.06


def test_the_same_seed_draws_the_same_sets():
    assert sample_findings(50, np.random.default_rng(5)) == sample_findings(50, np.random.default_rng(5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"missing": ("Hernai",)}, "unknown finding 'Hernai'"),
        ({"floor": 0.99}, "Lower the floors"),
    ],
)
def test_impossible_wishes_are_refused(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        sample_findings(10, np.random.default_rng(0), **options)
