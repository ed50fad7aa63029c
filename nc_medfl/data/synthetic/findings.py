"""The 14 findings of NIH ChestX-ray14 as visible changes of a drawn chest.

Some change the chest before it is drawn (``reshape``: a wide heart, a raised diaphragm), most the film
(``mark``). Each takes a severity in [0, 1]; at 0 a finding is hardly seen, at 1 nobody misses it. Sizes are in
units of the picture's side, about 400 mm: the border of 3 cm between nodule and mass is a radius of 0.0375.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from nc_medfl.data.synthetic.anatomy import (
    LEFT,
    RIGHT,
    Anatomy,
    Field,
    Film,
    Mask,
    blur,
    closed_curve,
    dot,
    ellipse_field,
    fill,
    paint,
    ribbon,
    smooth_noise,
    step,
    thread,
)

Reshape = Callable[[Anatomy, np.random.Generator, float], Anatomy]
Mark = Callable[[Film, np.random.Generator, float], None]


def _side(rng: np.random.Generator) -> int:
    return int(rng.integers(2))


def _sides(rng: np.random.Generator, both: float) -> tuple[int, ...]:
    return (RIGHT, LEFT) if rng.random() < both else (_side(rng),)


def _raise(anatomy: Anatomy, side: int, by: float) -> Anatomy:
    right, left = anatomy.dome
    return replace(anatomy, dome=(right - by, left) if side == RIGHT else (right, left - by))


def _between(low: float, high: float, severity: float) -> float:
    return low + (high - low) * severity


# ---- changes of the chest itself ---------------------------------------------------------------------------


def _wide_heart(anatomy: Anatomy, _: np.random.Generator, severity: float) -> Anatomy:
    """Cardiothoracic ratio from about 0.50 upwards."""
    return replace(anatomy, heart=max(anatomy.heart, anatomy.width * _between(0.475, 0.66, severity)))


def _overinflate(anatomy: Anatomy, rng: np.random.Generator, severity: float) -> Anatomy:
    """Long dark lungs with few markings, a flat low diaphragm, a narrow heart."""
    low = _between(0.015, 0.07, severity)
    return replace(
        anatomy,
        dome=(anatomy.dome[0] + low, anatomy.dome[1] + low),
        apex=anatomy.apex - 0.012 * severity,
        flatness=float(np.clip(_between(0.35, 0.95, severity) + rng.normal(0, 0.05), 0.0, 1.0)),
        heart=anatomy.heart * _between(0.97, 0.82, severity),
        aeration=anatomy.aeration * _between(1.04, 1.16, severity),
        vessels=anatomy.vessels * _between(0.85, 0.5, severity),
        width=min(0.41, anatomy.width * (1.0 + 0.04 * severity)),
    )


def _lose_volume(anatomy: Anatomy, rng: np.random.Generator, severity: float) -> Anatomy:
    """The diaphragm rises on one side and the heart is drawn towards it."""
    side = _side(rng)
    pull = (-0.018 if side == RIGHT else 0.018) * severity
    return replace(_raise(anatomy, side, _between(0.015, 0.07, severity)), shift=anatomy.shift + pull)


def _shrink(anatomy: Anatomy, _: np.random.Generator, severity: float) -> Anatomy:
    """Scarred lungs are small ones."""
    by = 0.03 * severity
    return replace(anatomy, dome=(anatomy.dome[0] - by, anatomy.dome[1] - by))


# ---- changes of the film -----------------------------------------------------------------------------------


def _plates(film: Film, rng: np.random.Generator, severity: float) -> None:
    """Atelectasis: thin bands across the base of the lung that lost volume."""
    side = _side(rng)  # the same draw as in _lose_volume, whose stream this one repeats
    layer = np.zeros_like(film.opacity)
    for _ in range(int(rng.integers(1, 4))):
        x, y = film.place(side, float(rng.uniform(0.4, 0.65)), float(rng.uniform(0.66, 0.86)))
        reach, tilt = _between(0.05, 0.085, float(rng.random())), float(rng.normal(0.0, 0.16))
        along = np.linspace(-1.0, 1.0, 7)
        curve = np.stack([x + reach * along, y + reach * tilt * along + 0.01 * along**2], axis=1)
        paint(layer, ribbon(curve, _between(0.011, 0.022, severity)), 1.0)
    film.thicken(_between(0.50, 0.90, severity) * blur(layer, 0.004) * film.lungs[side])


def _consolidated_lobe(film: Film, rng: np.random.Generator, severity: float) -> None:
    """Consolidation: one dense, even part of a lung, sharp where it meets a fissure, with air in its bronchi."""
    side, upper = _side(rng), rng.random() < 0.4
    x, y = film.place(side, float(rng.uniform(0.45, 0.65)), float(rng.uniform(0.24, 0.36) if upper else 0.70))
    wide, high = rng.uniform(0.075, 0.115), _between(0.07, 0.125, severity)
    edge = film.x * rng.normal(0.0, 0.15) + 0.03 * smooth_noise(rng, film.size, 5)
    patch = step((((film.x - x) / wide) ** 2 + ((film.y - y) / high) ** 2 - 1.0 + 3.0 * edge) / 0.22)
    fissure = y + 0.55 * high if upper else y - 0.55 * high
    sharp = step((film.y - fissure) / 0.004 * (1.0 if upper else -1.0))
    bronchi = np.zeros_like(film.opacity)
    sign = -1.0 if side == RIGHT else 1.0
    for angle in rng.uniform(-0.8, 0.8, 4):
        stem = (x - sign * 0.055, y)
        tip = (x + sign * 0.045 * np.cos(angle), y + 0.09 * np.sin(angle))
        thread(bronchi, stem, tip, 0.008, 0.8)
    film.thicken(_between(0.18, 0.78, severity) * patch * sharp * (1.0 - np.clip(blur(bronchi, 0.004), 0.0, 0.5)))


def _bat_wings(film: Film, rng: np.random.Generator, severity: float) -> None:
    """Edema: haze around both hila, thick vessels, short lines at the flanks (Kerley B)."""
    a, haze = film.anatomy, np.zeros_like(film.opacity)
    lines = np.zeros_like(film.opacity)
    for side, sign in ((RIGHT, -1.0), (LEFT, 1.0)):
        x, y = 0.5 + sign * rng.uniform(0.12, 0.14), a.apex + rng.uniform(0.32, 0.36)
        haze += ellipse_field(film, x, y, rng.uniform(0.085, 0.105), rng.uniform(0.15, 0.18))
        for down in rng.uniform(0.66, 0.90, 7):
            edge, row = film.place(side, 0.98, float(down))
            thread(lines, (edge, row), (edge - sign * 0.028, row + 0.002), 0.006, 1.0)
    haze *= 1.0 + 0.35 * smooth_noise(rng, film.size, 12)
    film.markings = film.markings * _between(1.0, 1.5, severity)
    film.thicken(_between(0.04, 0.50, severity) * np.clip(haze, 0.0, 1.0))
    film.thicken(_between(0.05, 0.45, severity) * np.clip(blur(lines, 0.002), 0, 1))


def _fluid(film: Film, rng: np.random.Generator, severity: float) -> None:
    """Effusion: the corner between ribs and diaphragm fills, the surface climbing up the chest wall."""
    for side in _sides(rng, 0.35):
        grade = float(np.clip(severity * rng.uniform(0.7, 1.1), 0.0, 1.0))
        bottom = film.anatomy.dome[side] + 0.10
        level = bottom - _between(0.020, 0.23, grade)
        climb = _between(0.025, 0.13, grade) * np.clip(film.outward(side), 0.0, 1.0) ** 3
        half = film.outward(side) > 0.0
        film.thicken(0.94 * half * step((level - climb + 0.035 - film.y) / 0.008))


def _reticulate(film: Film, rng: np.random.Generator, severity: float) -> None:
    """Fibrosis: a net of fine lines, most at the bases and the flanks."""
    net = np.zeros_like(film.opacity)
    for cells in (26, 44):
        net = np.maximum(net, np.exp(-((smooth_noise(rng, film.size, cells) / 0.22) ** 2)))
    where = np.zeros_like(net)
    for side in (RIGHT, LEFT):
        down = np.clip((film.y - film.anatomy.apex) / (film.anatomy.dome[side] - film.anatomy.apex), 0.0, 1.0)
        strength = rng.uniform(0.6, 1.0)
        where += strength * film.lungs[side] * np.clip(0.9 * down**2 + 0.8 * film.outward(side) ** 3 - 0.25, 0.0, 1.0)
    film.thicken(_between(0.08, 0.65, severity) * where * (0.25 + 0.75 * net))


def _hiatal_sac(film: Film, rng: np.random.Generator, severity: float) -> None:
    """Hernia: a round shadow behind the heart above the diaphragm, with gas over a level of fluid."""
    x = 0.5 + rng.normal(0.025, 0.02)
    radius = _between(0.045, 0.085, severity)
    y = film.anatomy.dome[LEFT] - 0.25 * radius - rng.uniform(0.0, 0.02)
    distance = np.hypot((film.x - x) / radius, (film.y - y) / (0.9 * radius))
    sac = step((distance - 1.0) / 0.045)
    gas = step((distance - 0.80) / 0.06) * step((film.y - y + 0.05 * radius) / 0.006)
    film.thicken(_between(0.6, 0.9, severity) * sac)
    film.soft = film.soft * (1.0 + _between(0.04, 0.12, severity) * sac - _between(0.16, 0.42, severity) * gas)


def _haze(film: Film, rng: np.random.Generator, severity: float) -> None:
    """Infiltration: ill-defined patchy haze, often on both sides."""
    total = np.zeros_like(film.opacity)
    for side in _sides(rng, 0.55):
        for _ in range(int(rng.integers(2, 4))):
            x, y = film.place(side, float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.35, 0.8)))
            total += ellipse_field(film, x, y, rng.uniform(0.05, 0.085), rng.uniform(0.05, 0.10))
    patchy = np.clip(0.75 + 0.55 * smooth_noise(rng, film.size, 22), 0.1, 1.6)
    film.thicken(_between(0.16, 0.48, severity) * np.clip(total, 0.0, 1.0) * patchy)


def _round_shadow(film: Film, rng: np.random.Generator, radius: float, density: float) -> None:
    """One round opacity with a slightly lobed edge, clear of the chest wall."""
    x, y = film.place(_side(rng), float(rng.uniform(0.32, 0.78)), float(rng.uniform(0.18, 0.82)))
    angles = np.linspace(0.0, 2 * np.pi, 14, endpoint=False)
    r = radius * (1.0 + 0.08 * rng.standard_normal(14))
    mask = fill(film.size, closed_curve(np.stack([x + r * np.cos(angles), y + r * np.sin(angles)], axis=1), 5))
    film.thicken(density * blur(mask, 0.003 + 0.06 * radius))


def _mass(film: Film, rng: np.random.Generator, severity: float) -> None:
    """Mass: one round opacity of more than 3 cm."""
    _round_shadow(film, rng, _between(0.042, 0.080, float(rng.random())), _between(0.42, 0.88, severity))


def _nodules(film: Film, rng: np.random.Generator, severity: float) -> None:
    """Nodule: one to three small round opacities, under 3 cm."""
    for _ in range(int(rng.choice([1, 2, 3], p=[0.4, 0.35, 0.25]))):
        _round_shadow(film, rng, _between(0.018, 0.034, float(rng.random())), _between(0.55, 0.95, severity))


def _thick_pleura(film: Film, rng: np.random.Generator, severity: float) -> None:
    """Pleural thickening: an uneven band inside the chest wall, with a cap over the lung's tip."""
    for side in _sides(rng, 0.45):
        mask = film.lungs[side].astype(np.float32)
        width = _between(0.014, 0.036, severity)
        inward = width if side == RIGHT else -width
        shifted = _moved(mask, inward, 0.45 * width, film.size)
        ends = step((film.y - film.anatomy.dome[side] - 0.02) / 0.02)
        uneven = np.clip(0.9 + 0.35 * smooth_noise(rng, film.size, 9), 0.3, 1.2)
        film.thicken(_between(0.45, 0.85, severity) * blur(mask * (1.0 - shifted), 0.003) * uneven * ends)


def _moved(mask: Field, right: float, down: float, size: int) -> Field:
    """A mask moved by a part of the picture's side."""
    moved: Field = np.roll(mask, (round(down * size), round(right * size)), axis=(0, 1))
    return moved


def _airspace(film: Film, rng: np.random.Generator, severity: float) -> None:
    """Pneumonia: one mottled opacity with fading edges, in the lower half of one lung."""
    side = _side(rng)
    x, y = film.place(side, float(rng.uniform(0.35, 0.65)), float(rng.uniform(0.60, 0.78)))
    patch = ellipse_field(film, x, y, rng.uniform(0.075, 0.105), _between(0.06, 0.10, severity))
    mottle = np.zeros_like(film.opacity)
    for _ in range(16):
        spot = np.array([x, y]) + rng.normal(0.0, 0.045, 2)
        dot(mottle, float(spot[0]), float(spot[1]), float(rng.uniform(0.008, 0.016)), 0.35)
    film.thicken(_between(0.30, 0.72, severity) * np.clip(patch * (0.75 + blur(mottle, 0.004)), 0.0, 1.0))


def _collapse(film: Film, rng: np.random.Generator, severity: float) -> None:
    """Pneumothorax: a fine line, the lung's edge, and beyond it air without markings."""
    side = _side(rng)
    gap = _between(0.016, 0.10, severity)
    whole = film.lungs[side]
    lung = _moved(whole.astype(np.float32), gap if side == RIGHT else -gap, 1.25 * gap, film.size)
    lowest = film.anatomy.dome[side] - rng.uniform(0.0, _between(0.40, 0.10, severity))  # small ones lie at the tip
    free = whole & (lung < 0.5) & (film.outward(side) > 0.12)
    fading = step((film.y - lowest) / 0.025)
    zone = blur(free, 0.003) * fading
    film.markings = film.markings * (1.0 - zone)
    film.lucency = film.lucency + _between(0.05, 0.28, severity) * zone
    film.thicken(_between(0.03, 0.20, severity) * blur(whole & (lung > 0.5), 0.004))
    film.thicken(_between(0.14, 0.48, severity) * _edge(free, whole) * fading)


def _edge(free: Mask, whole: Mask) -> Field:
    """The border between free air and lung, not the one along the chest wall."""
    soft = blur(free, 0.005)
    inside = blur(whole, 0.012) > 0.80
    line: Field = np.clip(4.0 * soft * (1.0 - soft), 0.0, 1.0) * inside
    return line


def _nothing(_film: Film, _rng: np.random.Generator, _severity: float) -> None:
    """Findings that are all in the shape of the chest."""


RESHAPE: Mapping[str, Reshape] = MappingProxyType(
    {
        "Atelectasis": _lose_volume,
        "Cardiomegaly": _wide_heart,
        "Emphysema": _overinflate,
        "Fibrosis": _shrink,
    }
)

#: In the order in which they are drawn: what takes air away first, what lies over it last.
MARK: Mapping[str, Mark] = MappingProxyType(
    {
        "Cardiomegaly": _nothing,
        "Emphysema": _nothing,
        "Hernia": _hiatal_sac,
        "Fibrosis": _reticulate,
        "Edema": _bat_wings,
        "Infiltration": _haze,
        "Pneumonia": _airspace,
        "Consolidation": _consolidated_lobe,
        "Atelectasis": _plates,
        "Mass": _mass,
        "Nodule": _nodules,
        "Pneumothorax": _collapse,
        "Pleural_Thickening": _thick_pleura,
        "Effusion": _fluid,
    }
)

FINDINGS: tuple[str, ...] = tuple(sorted(MARK))
