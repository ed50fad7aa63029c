"""The drawn radiographs show what they are said to show, where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nc_medfl.data.synthetic import FINDINGS, draw_radiograph
from nc_medfl.errors import UserError
from nc_medfl.labels import load_vocabulary

SIZE = 128


def mean_pair(finding: str, *, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Mean of plain films with one finding, and of the same patients on the same day without it."""
    films = []
    for present in ([finding], []):
        draws = [
            draw_radiograph(present, np.random.default_rng(seed), size=SIZE, patient=seed, severity=1.0)
            for seed in range(count)
        ]
        films.append(np.stack(draws))
    return films[0], films[1]


def box(top: float, bottom: float, left: float, right: float) -> tuple[slice, slice]:
    return slice(int(top * SIZE), int(bottom * SIZE)), slice(int(left * SIZE), int(right * SIZE))


def test_findings_are_those_of_the_nih_vocabulary():
    assert load_vocabulary("nih14").findings == FINDINGS


def test_bone_is_bright_and_air_is_dark():
    film = np.mean([draw_radiograph([], np.random.default_rng(seed), size=SIZE) for seed in range(8)], axis=0)
    lung, spine, outside = film[box(0.35, 0.55, 0.24, 0.34)], film[box(0.75, 0.9, 0.48, 0.52)], film[: SIZE // 20, :6]
    assert outside.mean() < 0.02
    assert lung.mean() < 0.4 < 0.65 < spine.mean()


@pytest.mark.parametrize("finding", FINDINGS)
def test_a_plain_finding_changes_every_film(finding: str):
    shown, normal = mean_pair(finding, count=6)
    largest = np.abs(shown - normal).reshape(6, -1).max(axis=1)
    assert (largest > 0.12).all()


# Where each finding belongs, and whether it makes that part brighter (+1) or darker (-1). Boxes are
# (top, bottom, left, right) in shares of the picture; the heart's left border lies right of 0.6.
PLACES = {
    "Cardiomegaly": (0.58, 0.70, 0.64, 0.72, +1),
    "Edema": (0.38, 0.52, 0.34, 0.42, +1),
    "Effusion": (0.70, 0.78, 0.16, 0.22, +1),
    "Emphysema": (0.74, 0.78, 0.22, 0.36, -1),
    "Fibrosis": (0.60, 0.68, 0.18, 0.28, +1),
    "Hernia": (0.66, 0.70, 0.49, 0.56, -1),
    "Pneumonia": (0.50, 0.68, 0.20, 0.38, +1),
    "Pneumothorax": (0.20, 0.32, 0.70, 0.76, -1),
}


@pytest.mark.parametrize("finding", PLACES)
def test_a_finding_shows_where_it_belongs(finding: str):
    top, bottom, left, right, sign = PLACES[finding]
    shown, normal = mean_pair(finding, count=24)
    change = (shown - normal).mean(axis=0)
    inside = sign * change[box(top, bottom, left, right)].mean()
    assert inside > 0.01
    assert inside > 2 * abs(change[: SIZE // 12].mean())  # neck and shoulders stay as they were


def test_severity_makes_a_finding_plainer():
    def change(severity: float) -> float:
        films = [
            draw_radiograph(present, np.random.default_rng(3), size=SIZE, patient=3, severity=severity)
            for present in (["Consolidation"], [])
        ]
        return float(np.abs(films[0] - films[1]).sum())

    assert change(0.0) < 0.5 * change(1.0)


def test_a_mass_is_larger_than_a_nodule():
    # 3 cm is the border: 0.075 of 400 mm. Area of the changed pixels of one lesion, by half of the largest change.
    def area(finding: str) -> float:
        shown, normal = mean_pair(finding, count=10)
        change = np.abs(shown - normal)
        return float((change > 0.5 * change.max(axis=(1, 2), keepdims=True)).sum(axis=(1, 2)).mean())

    assert area("Mass") > 1.5 * area("Nodule")


def test_two_films_of_a_patient_show_the_same_chest():
    first, second, other = (
        draw_radiograph([], np.random.default_rng(seed), size=SIZE, patient=patient)
        for seed, patient in ((1, 7), (2, 7), (1, 8))
    )
    assert not np.array_equal(first, second)
    assert np.abs(first - second).mean() < np.abs(first - other).mean()


@settings(max_examples=20, deadline=None)
@given(findings=st.sets(st.sampled_from(FINDINGS)), seed=st.integers(0, 2**32), size=st.integers(48, 160))
def test_any_set_of_findings_makes_a_finite_picture_and_the_same_one_again(findings: set[str], seed: int, size: int):
    films = [draw_radiograph(findings, np.random.default_rng(seed), size=size, view="AP", sex="F") for _ in range(2)]
    assert films[0].shape == (size, size)
    assert films[0].dtype == np.float32
    assert np.isfinite(films[0]).all()
    assert films[0].min() >= 0.0
    assert films[0].max() <= 1.0
    assert np.array_equal(films[0], films[1])


def test_the_order_of_the_findings_does_not_matter():
    films = [
        draw_radiograph(names, np.random.default_rng(1), size=64) for names in (["Mass", "Edema"], ["Edema", "Mass"])
    ]
    assert np.array_equal(films[0], films[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"findings": ["Fracture"]}, "cannot draw 'Fracture'"),
        ({"findings": [], "view": "LATERAL"}, "the view 'LATERAL'"),
        ({"findings": [], "size": 16}, "16 pixels"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(arguments: dict, message: str):
    with pytest.raises(UserError, match=message) as caught:
        draw_radiograph(rng=np.random.default_rng(0), **arguments)
    assert "\n" not in str(caught.value)
