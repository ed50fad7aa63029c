"""One radiograph from a set of findings: anatomy, findings, everyday clutter, pose, grain."""

from __future__ import annotations

from collections.abc import Collection

import cv2
import numpy as np

from nc_medfl.data.synthetic.anatomy import (
    LEFT,
    RIGHT,
    Field,
    Film,
    Mask,
    Points,
    breathe,
    dot,
    sample_anatomy,
    smooth_noise,
    thread,
)
from nc_medfl.data.synthetic.boxes import FindingBox, boxes_of, place_of
from nc_medfl.data.synthetic.findings import FINDINGS, MARK, RESHAPE
from nc_medfl.data.synthetic.skeleton import base_film
from nc_medfl.errors import UserError


def draw_radiograph(
    findings: Collection[str],
    rng: np.random.Generator,
    *,
    size: int = 192,
    view: str = "PA",
    sex: str = "M",
    patient: int | None = None,
    severity: float | None = None,
) -> Field:
    """Draw a chest radiograph that shows some findings.

    Args:
        findings: names of the 14 findings of NIH ChestX-ray14; empty draws a normal film.
        rng: chance of this one film (position, breath, clutter, grain) and, without ``patient``, of the patient.
        size: side of the picture in pixels, 48 or more.
        view: ``PA`` or ``AP``.
        sex: ``F`` or ``M``.
        patient: seed of body and disease, so that two films of one patient show the same chest and the same
            findings in the same places.
        severity: how plain every finding is, 0 to 1; drawn by chance for each if not given, so that some are
            hard to see.

    Returns:
        float32 ``[size, size]`` in [0, 1], bone bright, air dark.

    Raises:
        UserError: if a finding is not one of the 14, or the view or the size cannot be drawn.
    """
    return draw_with_boxes(findings, rng, size=size, view=view, sex=sex, patient=patient, severity=severity)[0]


def draw_with_boxes(
    findings: Collection[str],
    rng: np.random.Generator,
    *,
    size: int = 192,
    view: str = "PA",
    sex: str = "M",
    patient: int | None = None,
    severity: float | None = None,
) -> tuple[Field, list[FindingBox]]:
    """As :func:`draw_radiograph`, and where each finding was drawn: the same picture, bit for bit."""
    _check(findings, size, view)
    body = int(rng.integers(2**62)) if patient is None else patient
    anatomy = breathe(sample_anatomy(np.random.default_rng([body, 0]), sex=sex, view=view), rng)
    present = [name for name in MARK if name in findings]
    grade = {name: _severity(name, body, rng) if severity is None else severity for name in present}
    for name in present:
        if name in RESHAPE:
            anatomy = RESHAPE[name](anatomy, _stream(body, name), grade[name])
    film = base_film(anatomy, size, view=view)
    drawn: dict[str, Mask] = {}
    for name in present:
        before = film.compose()
        MARK[name](film, _stream(body, name), grade[name])
        drawn[name] = place_of(name, film, before)
    _clutter(film, rng, view)
    pose = _pose(size, rng)
    posed = _posed(film.compose(), pose) + 0.012 * smooth_noise(rng, size, size // 3)
    picture: Field = np.clip(posed, 0.0, 1.0).astype(np.float32)
    return picture, [box for name, mask in drawn.items() for box in boxes_of(name, mask, pose)]


def _check(findings: Collection[str], size: int, view: str) -> None:
    wrong = sorted(set(findings) - set(FINDINGS))
    if wrong:
        raise UserError(f"cannot draw '{wrong[0]}'. The synthetic findings are: {', '.join(FINDINGS)}.")
    if view not in ("PA", "AP"):
        raise UserError(f"cannot draw the view '{view}'. Choose PA or AP.")
    if size < 48:
        raise UserError(f"cannot draw a chest in {size} pixels. Choose a size of 48 or more.")


def _stream(body: int, name: str) -> np.random.Generator:
    """The chance that belongs to one finding of one patient, the same on every film."""
    return np.random.default_rng([body, 1 + FINDINGS.index(name)])


def _severity(name: str, body: int, rng: np.random.Generator) -> float:
    """Drawn for the patient, with some change from film to film."""
    own = np.random.default_rng([body, 100 + FINDINGS.index(name)]).beta(1.3, 1.3)
    return float(np.clip(own + rng.normal(0.0, 0.1), 0.0, 1.0))


def _clutter(film: Film, rng: np.random.Generator, view: str) -> None:
    """What lies on many films and is no finding: nipples, leads, a skin fold, a faint haze, full vessels."""
    if rng.random() < 0.15:
        film.markings = film.markings * float(rng.uniform(1.1, 1.4))
    if rng.random() < 0.12:
        for side in (RIGHT, LEFT):
            x, y = film.place(side, 0.60, float(rng.uniform(0.76, 0.82)))
            dot(film.soft, x, y, float(rng.uniform(0.008, 0.012)), 0.05)
    if rng.random() < (0.35 if view == "AP" else 0.06):
        _leads(film, rng)
    if rng.random() < 0.10:
        x, y = film.place(int(rng.integers(2)), 0.75, 0.2)
        thread(film.soft, (x, y), (x + rng.normal(0.0, 0.03), y + 0.3), 0.006, 0.04)
    film.soft = film.soft * (1.0 + 0.025 * smooth_noise(rng, film.size, 5))


def _leads(film: Film, rng: np.random.Generator) -> None:
    """Electrodes with their cables."""
    for side in (RIGHT, LEFT):
        x, y = film.place(side, float(rng.uniform(0.3, 0.9)), float(rng.uniform(0.15, 0.6)))
        dot(film.bone, x, y, 0.011, 0.16)
        thread(film.bone, (x, y), (0.5 + rng.normal(0.0, 0.2), 0.98), 0.005, 0.14)


def _pose(size: int, rng: np.random.Generator) -> Points:
    """A small turn, shift and change of scale, as nobody stands the same twice."""
    turn, scale = float(rng.normal(0.0, 1.6)), float(np.clip(rng.normal(1.0, 0.025), 0.93, 1.07))
    matrix: Points = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), turn, scale)
    matrix[:, 2] += rng.normal(0.0, 0.012, 2) * size
    return matrix


def _posed(picture: Field, pose: Points) -> Field:
    size = picture.shape[0]
    posed: Field = cv2.warpAffine(picture, pose, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return posed
