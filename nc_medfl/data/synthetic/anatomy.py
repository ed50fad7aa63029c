"""A chest without findings: its measures, drawn by chance, and the layers they make on the film.

Coordinates are ``(x, y)`` in units of the picture's side (about 400 mm), y downwards, the patient's right on the
left of the picture as on a light box. Nothing is traced from a real patient.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from skimage.draw import disk, line_aa, polygon
from skimage.filters import gaussian

Field: TypeAlias = npt.NDArray[np.float32]
Mask: TypeAlias = npt.NDArray[np.bool_]
Points: TypeAlias = npt.NDArray[np.float64]

RIGHT, LEFT = 0, 1  # the patient's sides; RIGHT lies on the left of the picture


@dataclass(frozen=True)
class Anatomy:
    """Measures of one chest, in units of the picture's side unless said otherwise.

    Attributes:
        width: half width of the rib cage at its base.
        apex: y of the lung tips.
        dome: y of the highest point of the right and the left diaphragm.
        flatness: 0 a normal dome, 1 a flat diaphragm.
        heart: half width of the heart.
        shift: sideways shift of heart and mediastinum, positive to the picture's right.
        aeration: how dark the lungs are, about 1.
        vessels: how strong the lung markings are, about 1.
        bone: contrast of the ribs.
        rib_slope: how far ribs fall from spine to flank.
        girth: half width of the trunk.
        breast: size of the breast shadows, 0 for none.
        texture: seed of the small random details of this body (vessel paths, rib wobble).
    """

    width: float
    apex: float
    dome: tuple[float, float]
    flatness: float
    heart: float
    shift: float
    aeration: float
    vessels: float
    bone: float
    rib_slope: float
    girth: float
    breast: float
    texture: int


def sample_anatomy(rng: np.random.Generator, *, sex: str = "M", view: str = "PA") -> Anatomy:
    """Draw the measures of a healthy chest.

    Args:
        rng: where chance comes from.
        sex: ``F`` adds breast shadows and narrows the frame a little.
        view: ``AP`` (a bedside film) enlarges the heart and raises the diaphragm, as geometry does.
    """
    width = float(np.clip(rng.normal(0.365, 0.016), 0.325, 0.40)) * (0.965 if sex == "F" else 1.0)
    dome = float(rng.normal(0.725, 0.018)) - (0.03 if view == "AP" else 0.0)
    ratio = float(np.clip(rng.normal(0.445, 0.022), 0.39, 0.49)) * (1.06 if view == "AP" else 1.0)
    return Anatomy(
        width=width,
        apex=float(rng.normal(0.13, 0.012)),
        dome=(dome, dome + float(rng.normal(0.022, 0.010))),
        flatness=float(np.clip(rng.normal(0.12, 0.08), 0.0, 0.4)),
        heart=ratio * width,
        shift=float(rng.normal(0.0, 0.007)),
        aeration=float(np.clip(rng.normal(1.0, 0.05), 0.86, 1.12)),
        vessels=float(np.clip(rng.normal(1.0, 0.2), 0.55, 1.5)),
        bone=float(rng.uniform(0.75, 1.25)),
        rib_slope=float(rng.normal(0.10, 0.018)),
        girth=width + float(np.clip(rng.normal(0.062, 0.018), 0.03, 0.10)),
        breast=float(rng.uniform(0.4, 1.0)) if sex == "F" else 0.0,
        texture=int(rng.integers(2**31)),
    )


def breathe(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    """The same chest on another day: a little more or less air, a slightly other position."""
    depth = float(rng.normal(0.0, 0.008))
    return replace(
        anatomy,
        dome=(anatomy.dome[0] + depth, anatomy.dome[1] + depth),
        shift=anatomy.shift + float(rng.normal(0.0, 0.003)),
        aeration=anatomy.aeration * float(rng.normal(1.0, 0.02)),
    )


@dataclass
class Film:
    """The layers of one radiograph while it is being drawn, each float32 ``[size, size]``.

    ``soft`` is what soft tissue alone would show, ``air`` the share of it that lungs take away, ``markings`` the
    lung vessels, ``bone`` what bones add. Findings write to ``opacity`` (air replaced by something denser, 0 to 1,
    combined so that two never exceed 1), ``lucency`` (more air than normal), or to the layers themselves.
    """

    size: int
    anatomy: Anatomy
    soft: Field
    air: Field
    markings: Field
    bone: Field
    lungs: tuple[Mask, Mask]
    heart: Field
    opacity: Field
    lucency: Field

    @property
    def x(self) -> Field:
        """Horizontal position of every pixel, 0 to 1."""
        return grid(self.size)[0]

    @property
    def y(self) -> Field:
        """Vertical position of every pixel, 0 to 1, downwards."""
        return grid(self.size)[1]

    def place(self, side: int, outward: float, down: float) -> tuple[float, float]:
        """A point inside one lung as ``(x, y)``.

        Args:
            side: ``RIGHT`` or ``LEFT``.
            outward: 0 at the midline's edge of the lung, 1 at the chest wall.
            down: 0 at the tip, 1 at the lowest point.
        """
        mask = self.lungs[side]
        rows = np.flatnonzero(mask.any(axis=1))
        row = int(rows[0] + down * (rows[-1] - rows[0]))
        columns = np.flatnonzero(mask[row])
        inner, outer = (columns[-1], columns[0]) if side == RIGHT else (columns[0], columns[-1])
        return float(inner + outward * (outer - inner)) / self.size, row / self.size

    def outward(self, side: int) -> Field:
        """How far every pixel lies towards the chest wall of one side, 0 at the midline, 1 at the flank."""
        sign = -1.0 if side == RIGHT else 1.0
        towards: Field = np.clip(sign * (self.x - 0.5) / self.anatomy.width, 0.0, 1.2)
        return towards

    def thicken(self, amount: npt.NDArray[np.floating]) -> None:
        """Replace a share of the air, ``amount`` in [0, 1], by something denser."""
        clear = (1.0 - self.opacity) * (1.0 - np.clip(amount, 0.0, 1.0))
        self.opacity = (1.0 - clear).astype(np.float32)

    def compose(self) -> Field:
        """Put the layers together; float32 ``[size, size]``, bone bright, about [0, 1]."""
        dense = 1.0 - (1.0 - self.opacity) * (1.0 - np.clip(self.markings, 0.0, 0.6))
        air = np.clip(self.air * (1.0 - dense) * (1.0 + self.lucency), 0.0, 1.25)
        return (self.soft * (1.0 - 0.72 * air) + self.bone).astype(np.float32)


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[Field, Field]:
    """Pixel centres of a square picture as ``(x, y)``, each float32 ``[size, size]`` in (0, 1)."""
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = (axis.astype(np.float32) for axis in np.meshgrid(centres, centres))
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Field:
    """Random field that varies over about ``1 / cells`` of the picture; mean 0, spread about 1."""
    coarse = rng.standard_normal((cells, cells)).astype(np.float32)
    noise: Field = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return noise


def blur(field: npt.NDArray[np.generic], radius: float) -> Field:
    """Gaussian blur with a radius in units of the picture's side. Wide ones are done on a coarser picture."""
    size = field.shape[0]
    step = max(1, int(radius * size / 2.5))
    image = field.astype(np.float32)
    if step > 1:
        small = cv2.resize(image, (size // step, size // step), interpolation=cv2.INTER_AREA)
        small = gaussian(small, radius * small.shape[0], mode="nearest", preserve_range=True)
        wide: Field = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
        return wide
    smooth: Field = gaussian(image, radius * size, mode="nearest", truncate=3.0, preserve_range=True)
    return smooth


def closed_curve(points: npt.ArrayLike, steps: int = 8) -> Points:
    """Smooth closed curve through some points (Catmull-Rom), ``[len(points) * steps, 2]``."""
    p1 = np.asarray(points, dtype=np.float64)
    p0, p2, p3 = np.roll(p1, 1, axis=0), np.roll(p1, -1, axis=0), np.roll(p1, -2, axis=0)
    t = np.linspace(0.0, 1.0, steps, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (p[:, None, :] for p in (p0, p1, p2, p3))
    curve = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    smooth: Points = curve.reshape(-1, 2)
    return smooth


def bezier(start: npt.ArrayLike, bend: npt.ArrayLike, end: npt.ArrayLike, steps: int = 7) -> Points:
    """Quadratic Bezier curve, ``[steps, 2]``."""
    t = np.linspace(0.0, 1.0, steps)[:, None]
    weights = np.concatenate([(1 - t) ** 2, 2 * t * (1 - t), t**2], axis=1)
    curve: Points = weights @ np.array([start, bend, end], dtype=np.float64)
    return curve


def ribbon(curve: Points, width: float | Points) -> Points:
    """Outline of a band of some width (a number, or one a point) along an open curve."""
    tangent = np.empty_like(curve)
    tangent[1:-1] = curve[2:] - curve[:-2]
    tangent[0], tangent[-1] = curve[1] - curve[0], curve[-1] - curve[-2]
    half = np.asarray(width) / (2.0 * (np.sqrt((tangent * tangent).sum(axis=1)) + 1e-9))
    offset = tangent[:, ::-1] * (-1.0, 1.0) * half[:, None]
    return np.concatenate([curve + offset, (curve - offset)[::-1]])


def fill(size: int, *outlines: Points) -> Mask:
    """Pixels inside any of some polygons given as ``(x, y)`` points."""
    # scikit-image's polygon tests every pixel against every edge: 3 ms for a lung, where OpenCV takes 0.03.
    canvas = np.zeros((size, size), dtype=np.uint8)
    for outline in outlines:
        cv2.fillPoly(canvas, [np.round((outline * size - 0.5) * 16).astype(np.int32)], 1, shift=4)
    return canvas.astype(np.bool_)


def paint(field: Field, outline: Points, value: float) -> None:
    """Add ``value`` to the pixels of a field inside a small polygon."""
    size = field.shape[0]
    corners = outline * size - 0.5
    field[polygon(corners[:, 1], corners[:, 0], field.shape)] += value


def thread(field: Field, start: npt.ArrayLike, end: npt.ArrayLike, width: float, value: float) -> None:
    """Add a straight thread about a pixel wide, weighted so that it weighs as much as one of that width."""
    size = field.shape[0]
    (x0, y0), (x1, y1) = np.clip(np.array([start, end]) * size, 1, size - 2).astype(int)
    rows, columns, weight = line_aa(y0, x0, y1, x1)
    field[rows, columns] += value * width * size * weight


def step(distance: npt.NDArray[np.floating]) -> Field:
    """Soft step: 1 far below zero, 0.5 at zero, 0 far above; the width is one unit."""
    soft: Field = (0.5 - 0.5 * np.tanh(0.5 * distance)).astype(np.float32)
    return soft


def dot(field: Field, x: float, y: float, radius: float, value: float) -> None:
    """Add ``value`` to the pixels of a field inside a disk."""
    size = field.shape[0]
    field[disk((y * size - 0.5, x * size - 0.5), max(radius * size, 0.6), shape=(size, size))] += value


def ellipse_field(film: Film, x: float, y: float, rx: float, ry: float, power: float = 1.0) -> Field:
    """Bell over an ellipse: 1 in the middle, 0.37 on its rim; a higher power makes the rim steeper."""
    distance = ((film.x - x) / rx) ** 2 + ((film.y - y) / ry) ** 2
    bell: Field = np.exp(-(distance**power))
    return bell


def mirror(points: npt.ArrayLike, side: int) -> Points:
    """Points given as (distance from the midline, y), put on one side of the picture."""
    out = np.array(points, dtype=np.float64)
    out[:, 0] = 0.5 + (-out[:, 0] if side == RIGHT else out[:, 0])
    return out


def lung_outline(anatomy: Anatomy, side: int) -> Points:
    """Outline of one lung, heart and mediastinum not yet taken away."""
    a, w, d = anatomy, anatomy.width, anatomy.dome[side]
    rise = 0.055 * (1.0 - 0.85 * a.flatness)
    height = d - a.apex
    corner = (0.985 * w, d + rise + 0.045)
    points = [
        (0.085, a.apex + 0.07),
        (0.125, a.apex + 0.005),
        (0.175, a.apex + 0.012),
        (0.66 * w, a.apex + 0.11),
        (0.85 * w, a.apex + 0.36 * height),
        (0.96 * w, a.apex + 0.64 * height),
        (w, d - 0.03),
        corner,
        (0.965 * w, corner[1] - 0.004),
        (0.80 * w, d + 0.55 * rise),
        (0.55 * w, d),
        (0.30 * w, d + 0.25 * rise),
        (0.10 * w, d + 0.8 * rise),
        (0.035, d - 0.05),
        (0.045, a.apex + 0.5 * height),
    ]
    return closed_curve(mirror(points, side), 7)
