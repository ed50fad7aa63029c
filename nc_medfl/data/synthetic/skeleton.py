"""The layers of a healthy film: trunk, lungs, heart, vessels, bones. Used by :func:`base_film` alone."""

from __future__ import annotations

from itertools import product

import numpy as np

from nc_medfl.data.synthetic.anatomy import (
    LEFT,
    RIGHT,
    Anatomy,
    Field,
    Film,
    Points,
    bezier,
    blur,
    closed_curve,
    dot,
    fill,
    grid,
    lung_outline,
    mirror,
    paint,
    ribbon,
    step,
    thread,
)

_TAPER = np.linspace(0.015, 0.004, 7)


def base_film(anatomy: Anatomy, size: int, *, view: str = "PA") -> Film:
    """Draw a chest without findings.

    Args:
        anatomy: its measures; their ``texture`` seeds the small details.
        size: side of the picture in pixels.
        view: ``AP`` leaves the shoulder blades over the lungs.
    """
    rng = np.random.default_rng(anatomy.texture)
    heart = _heart(anatomy, size)
    middle = _mediastinum(anatomy, size)
    outlines = [lung_outline(anatomy, side) for side in (RIGHT, LEFT)]
    masks = [fill(size, outline) for outline in outlines]
    both = blur(masks[0] | masks[1], 0.006)
    depth = 0.72 + 0.28 * blur(both, 0.05)
    air = anatomy.aeration * both * depth * (1.0 - 0.90 * heart) * (1.0 - 0.93 * middle)
    visible = (heart < 0.5) & (middle < 0.5)
    lungs = (masks[0] & visible, masks[1] & visible)
    markings = _vessels(anatomy, size, rng) * both
    soft = _soft_tissue(anatomy, size, heart, middle, rng)
    zero = np.zeros((size, size), dtype=np.float32)
    bone = _bones(anatomy, size, rng, view) * (soft > 0.05)
    return Film(size, anatomy, soft, air, markings, bone, lungs, heart, zero, zero.copy())


def _trunk(anatomy: Anatomy, size: int) -> Field:
    g, top = anatomy.girth, anatomy.apex
    half = [(0.0, -0.05), (0.10, -0.05), (0.115, top - 0.07), (0.28, top - 0.005), (g + 0.04, top + 0.10)]
    half += [(g + 0.01, top + 0.28), (g - 0.005, 0.60), (g, 0.80), (g + 0.01, 1.05), (0.0, 1.05)]
    right = mirror(half, RIGHT)
    return blur(fill(size, closed_curve(np.concatenate([right, mirror(half, LEFT)[::-1]]), 6)), 0.006)


def _soft_tissue(anatomy: Anatomy, size: int, heart: Field, middle: Field, rng: np.random.Generator) -> Field:
    x, y = grid(size)
    across = np.clip(np.abs(x[0] - 0.5) / (anatomy.girth + 0.02), 0.0, 1.0)
    profile = 0.40 + 0.20 * np.sqrt(1.0 - across**2)
    soft = profile + 0.10 * heart + 0.10 * middle
    half = size // 2
    for side, part in ((RIGHT, np.s_[:, :half]), (LEFT, np.s_[:, half:])):
        soft[part] += 0.13 * step((anatomy.dome[side] + 0.02 - y[:, :1]) / 0.035)
    _stomach(soft, anatomy, size, rng)
    if anatomy.breast > 0:
        low = anatomy.apex + 0.66 * (anatomy.dome[0] - anatomy.apex)
        for sign in (-1.0, 1.0):
            distance = np.hypot((x - 0.5 - sign * 0.60 * anatomy.width) / 0.135, (y - low - 0.04) / 0.125)
            soft += 0.07 * anatomy.breast * step((distance - 1.0) * 12.0 * (1.2 + y - low))
    tissue: Field = (soft * _trunk(anatomy, size)).astype(np.float32)
    return tissue


def _stomach(soft: Field, anatomy: Anatomy, size: int, rng: np.random.Generator) -> None:
    """Gas under the left dome, in most people."""
    wide, high = rng.uniform(0.03, 0.07), rng.uniform(0.018, 0.035)
    if rng.random() < 0.3:
        return
    x, y = grid(size)
    distance = ((x - 0.5 - 0.45 * anatomy.width) / wide) ** 2 + ((y - anatomy.dome[LEFT] - 0.045 - high) / high) ** 2
    soft -= 0.22 * np.exp(-(distance**2))


def _heart(anatomy: Anatomy, size: int) -> Field:
    a = anatomy
    base, middle = a.dome[LEFT] + 0.02, 0.5 + a.shift
    left, right = 1.28 * a.heart, 0.72 * a.heart  # two thirds of the heart lie left of the midline
    top = base - 0.30 - 0.25 * (a.heart - 0.16)
    points = [
        (middle - 0.05, top),
        (middle - 0.80 * right, top + 0.10),
        (middle - right, top + 0.19),
        (middle - 0.75 * right, base - 0.01),
        (middle, base + 0.03),
        (middle + 0.62 * left, base + 0.02),
        (middle + left, base - 0.055),
        (middle + 0.90 * left, base - 0.12),
        (middle + 0.52 * left, top + 0.075),
        (middle + 0.055, top + 0.01),
    ]
    return blur(fill(size, closed_curve(points)), 0.007)


def _mediastinum(anatomy: Anatomy, size: int) -> Field:
    a, c = anatomy, 0.5 + 0.7 * anatomy.shift
    knob = a.apex + 0.20
    points = [
        (c - 0.05, a.apex - 0.10),
        (c - 0.055, knob),
        (c - 0.062, knob + 0.16),
        (c - 0.05, a.dome[RIGHT] + 0.06),
        (c + 0.05, a.dome[LEFT] + 0.06),
        (c + 0.058, knob + 0.15),
        (c + 0.066, knob + 0.07),
        (c + 0.085, knob + 0.02),
        (c + 0.072, knob - 0.02),
        (c + 0.045, a.apex - 0.10),
    ]
    return blur(fill(size, closed_curve(points)), 0.007)


def _vessels(anatomy: Anatomy, size: int, rng: np.random.Generator) -> Field:
    """Markings fan out from both hila and thin towards the chest wall."""
    field = np.zeros((size, size), dtype=np.float32)
    stems = []
    for side in (RIGHT, LEFT):
        sign = -1.0 if side == RIGHT else 1.0
        hilum = np.array([0.5 + sign * 0.085 + anatomy.shift, anatomy.apex + 0.30 + (0.02 if side == RIGHT else 0.0)])
        angles = np.linspace(-1.25, 1.35, 11) + rng.normal(0.0, 0.10, 11)
        stems += [_branch(field, hilum, float(angle), sign, rng) for angle in angles]
        for _ in range(3):
            x, y = hilum + rng.normal(0.0, 0.014, 2)
            dot(field, float(x), float(y), float(rng.uniform(0.012, 0.022)), 0.20)
    field += 0.24 * fill(size, *stems)
    return anatomy.vessels * blur(field, 0.0045)


def _branch(field: Field, start: Points, angle: float, sign: float, rng: np.random.Generator) -> Points:
    """Paint the twigs of one vessel; its stem is returned as an outline."""
    length = rng.uniform(0.16, 0.26) * (1.15 if angle > 0.5 else 0.9)
    end = start + length * np.array([sign * np.cos(angle), np.sin(angle)])
    curve = bezier(start, (start + end) / 2 + rng.normal(0.0, 0.018, 2), end)
    for position in rng.integers(2, 6, 2):
        turn = angle + rng.choice((-1.0, 1.0)) * rng.uniform(0.35, 0.7)
        tip = curve[position] + rng.uniform(0.05, 0.10) * np.array([sign * np.cos(turn), np.sin(turn)])
        thread(field, curve[position], tip, 0.006, 0.19)
    return ribbon(curve, _TAPER)


def _bones(anatomy: Anatomy, size: int, rng: np.random.Generator, view: str) -> Field:
    field = _ribs(anatomy, size, rng)
    for side in (RIGHT, LEFT):
        _shoulder(field, anatomy, side, rng, view)
    field = blur(field, 0.0035)
    field *= 0.35 + 0.65 * step((grid(size)[1][:, :1] - max(anatomy.dome) - 0.03) / 0.02)  # belly hides the ribs
    field += _spine(anatomy, size)
    return anatomy.bone * field


def _ribs(anatomy: Anatomy, size: int, rng: np.random.Generator) -> Field:
    a, gap = anatomy, 0.066 + 0.005 * float(rng.standard_normal())
    back, cortex, front = [], [], []
    for side, number in product((RIGHT, LEFT), range(10)):
        y = a.apex - 0.03 + gap * number + rng.normal(0.0, 0.003)
        reach = a.width * (0.62 + 0.40 * min(1.0, (number + 0.5) / 5.0)) + 0.012
        fall = a.rib_slope * (0.5 + 0.10 * number)
        curve = bezier((0.03, y), (0.62 * reach, y - 0.035 + 0.2 * fall), (reach, y + fall))
        back.append(mirror(ribbon(curve, 0.023), side))
        cortex.append(mirror(ribbon(curve + np.array([0.0, 0.009]), 0.004), side))  # the lower one is the dense one
        if 1 <= number <= 7:  # front parts, fainter, running down and inwards
            curve = bezier((reach, y + fall), (0.95 * reach, y + fall + 0.07), (0.42 * reach, y + fall + 0.115))
            front.append(mirror(ribbon(curve, 0.024), side))
    ribs: Field = np.zeros((size, size), dtype=np.float32)
    for outlines, contrast in ((back, 0.065), (cortex, 0.035), (front, 0.030)):
        ribs += contrast * fill(size, *outlines)
    return ribs


def _shoulder(field: Field, anatomy: Anatomy, side: int, rng: np.random.Generator, view: str) -> None:
    a = anatomy
    lift = float(rng.normal(0.0, 0.010)) - (0.02 if view == "AP" else 0.0)
    y = a.apex + 0.035 + lift
    clavicle = bezier((0.035, y + 0.045), (0.15, y + 0.035), (0.95 * a.width, y - 0.055))
    paint(field, mirror(ribbon(clavicle, np.linspace(0.030, 0.021, 7)), side), 0.10)
    inner = 0.74 if view == "AP" else 0.90  # on a PA film the shoulder blades are turned out of the lungs
    blade = [(inner * a.width, y + 0.04), (a.width + 0.07, y + 0.0), (a.width + 0.05, y + 0.12)]
    blade += [((inner + 0.06) * a.width, y + 0.27)]
    paint(field, mirror(closed_curve(blade, 5), side), 0.045)
    dot(field, float(mirror([(a.width + 0.085, 0.0)], side)[0, 0]), y + 0.03, 0.045, 0.09)


def _spine(anatomy: Anatomy, size: int) -> Field:
    x, y = (axis.ravel() for axis in (grid(size)[0][0], grid(size)[1][:, 0]))
    c = 0.5 + 0.25 * anatomy.shift
    column = step((np.abs(x - c) - 0.035) / 0.004)
    discs = 0.75 + 0.25 * np.cos(2 * np.pi * (y - anatomy.apex) / 0.055)
    windpipe = np.exp(-(((x - c + 0.004) / 0.019) ** 4))
    ends = step((y - anatomy.apex - 0.23) / 0.015)
    spine: Field = (0.065 * np.outer(discs, column) - 0.13 * np.outer(ends, windpipe)).astype(np.float32)
    return spine
