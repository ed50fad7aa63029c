"""The shared structure: a simplex equiangular tight frame, and the classifier that compares with it.

METHOD section 1 and 3. Every site rebuilds the same frame from the number of findings, the feature
dimension and a seed, so it never travels; it is no parameter, so nobody can train or average it.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nc_medfl.errors import UserError

_Array = npt.NDArray[np.float64]


class ArchitectureError(UserError, ValueError):
    """A frame or network that can't be built as asked. A user's mistake, and a wrong value too."""


def simplex_etf(num_classes: int, feature_dim: int, *, seed: int | None = None) -> Tensor:
    """Vertices of a regular simplex around the origin, one a class (METHOD section 1).

    Every row has norm 1, any two rows have cosine ``-1 / (C - 1)``, and the rows sum to zero. It is worked
    out in float64 by elementwise products and sums of a fixed order, without LAPACK or BLAS, and rounded
    to float32 once at the end, so the same arguments give the same frame on every platform.

    Args:
        num_classes: C, 2 or more.
        feature_dim: D, ``C - 1`` or more.
        seed: None spans the first C axes (at ``D = C - 1`` a Helmert basis); a number rotates the simplex
            at random, which spreads every class over all channels.

    Returns:
        The frame, float32, ``[C, D]``.

    Raises:
        ValueError: if C is below 2 or D below ``C - 1``: no such frame exists; or if the seed is negative
            (also a ``UserError``).

    Example:
        >>> simplex_etf(2, 2)
        tensor([[ 0.7071, -0.7071],
                [-0.7071,  0.7071]])
    """
    if num_classes < 2:
        raise ArchitectureError(f"a simplex frame needs 2 classes or more, not {num_classes}. Name more findings.")
    if feature_dim < num_classes - 1:
        raise ArchitectureError(
            f"no simplex frame of {num_classes} classes exists in {feature_dim} dimensions. "
            f"Set feature_dim to {num_classes} or more (at the very least {num_classes - 1})."
        )
    if seed is not None and seed < 0:
        raise ArchitectureError(f"the seed of a frame must be 0 or more, not {seed}. Set frame_seed to 0 or more.")
    if feature_dim == num_classes - 1:
        rows = _helmert(num_classes)
        if seed is not None:
            rows = _rotate(rows, _orthonormal_rows(feature_dim, feature_dim, seed))
    else:
        rows = np.eye(num_classes, feature_dim) if seed is None else _orthonormal_rows(num_classes, feature_dim, seed)
        rows = rows - np.cumsum(rows, axis=0)[-1] / num_classes
    rows = math.sqrt(num_classes / (num_classes - 1)) * rows
    return torch.from_numpy(rows.astype(np.float32))


def _dot(a: _Array, b: _Array) -> float:
    # A running sum has one order of additions; np.dot and np.sum leave it to the platform.
    return float(np.cumsum(a * b)[-1])


def _orthonormal_rows(rows: int, columns: int, seed: int) -> _Array:
    """Random orthonormal rows: normal draws, modified Gram-Schmidt, each row swept twice."""
    draws: _Array = np.random.Generator(np.random.PCG64(seed)).standard_normal((rows, columns))
    for i in range(rows):
        for _ in range(2):  # once loses digits where rows are nearly dependent; twice is enough
            for j in range(i):
                draws[i] -= _dot(draws[j], draws[i]) * draws[j]
        draws[i] /= math.sqrt(_dot(draws[i], draws[i]))
    return draws


def _helmert(n: int) -> _Array:
    """Orthonormal basis of the complement of the ones vector, as columns ``[n, n - 1]``."""
    basis = np.zeros((n, n - 1))
    for k in range(1, n):
        basis[:k, k - 1] = 1.0
        basis[k, k - 1] = -float(k)
        basis[:, k - 1] /= math.sqrt(k * (k + 1))
    return basis


def _rotate(rows: _Array, rotation: _Array) -> _Array:
    """``rows @ rotation`` with a fixed order of additions."""
    result = np.zeros((rows.shape[0], rotation.shape[1]))
    for k in range(rotation.shape[0]):
        result += rows[:, k : k + 1] * rotation[k]
    return result


def tensor_fingerprint(values: Tensor) -> str:
    """SHA-256 of a tensor's shape and of its values rounded to five decimals, as hexadecimal text.

    Rounding keeps it blind to the last bits, in which platforms may differ, and to a change of device.
    """
    steps = torch.round(values.detach().to("cpu", torch.float64) * 1e5).to(torch.int64).contiguous()
    digest = hashlib.sha256(repr(tuple(values.shape)).encode())
    digest.update(steps.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def unit_vectors(vectors: Tensor, *, shortest: float = 1e-6) -> Tensor:
    """Divide vectors by their length, safely.

    Args:
        vectors: ``[..., D]``.
        shortest: vectors below this length become zero, with a zero gradient, where the quotient's gradient
            would blow up.
    """
    squared = vectors.square().sum(dim=-1, keepdim=True)
    usable = squared >= shortest**2
    inverse = torch.where(usable, squared, torch.ones_like(squared)).rsqrt()
    return torch.where(usable, vectors * inverse, torch.zeros_like(vectors))


class ETFClassifier(nn.Module):
    """Compare every class feature with every vertex of the frame (METHOD section 3).

    ``L[b, c, j] = scale * <Z[b, c], M[j]> + bias[j]``; the diagonal ``L[b, c, c]`` is the prediction. It is
    worked out in the frame's own precision, also under autocast.

    Args:
        frame: M, ``[C, D]``; copied into a buffer that is neither trained nor saved nor sent.
        init_scale: where the learned scale starts.
        normalise: compare directions only: Z is divided by its length first (off in the paper).
        learned: M is only where the frame starts: it is trained, saved and sent (an ablation).

    Attributes:
        frame: the buffer M, ``[C, D]``; a parameter where it is learned.
        scale: learned, a scalar.
        bias: learned, one a class, ``[C]``, from 0.

    Raises:
        ValueError: if the frame is not a matrix.
    """

    frame: Tensor

    def __init__(
        self, frame: Tensor, init_scale: float = 10.0, *, normalise: bool = False, learned: bool = False
    ) -> None:
        super().__init__()
        if frame.ndim != 2:
            raise ValueError(f"the frame must be [C, D], not {tuple(frame.shape)}")
        if learned:
            self.register_parameter("frame", nn.Parameter(frame.detach().clone()))
        else:
            self.register_buffer("frame", frame.detach().clone(), persistent=False)
        self.scale = nn.Parameter(torch.tensor(float(init_scale), dtype=frame.dtype))
        self.bias = nn.Parameter(torch.zeros(frame.shape[0], dtype=frame.dtype))
        self.normalise = normalise

    @property
    def class_axes(self) -> dict[str, int]:
        """Axis of the class in each parameter that belongs to classes."""
        return {"bias": 0, "frame": 0} if isinstance(self.frame, nn.Parameter) else {"bias": 0}

    def forward(self, class_features: Tensor) -> Tensor:
        """Map class features ``[B, C, D]`` to cross logits ``[B, C, C]``."""
        if class_features.ndim != 3 or class_features.shape[1:] != self.frame.shape:
            raise ValueError(
                f"class features must be [B, {self.frame.shape[0]}, {self.frame.shape[1]}], "
                f"not {tuple(class_features.shape)}"
            )
        # Half precision has three digits, too few for logits of scale 10.
        with torch.autocast(class_features.device.type, enabled=False):
            features = class_features.to(self.frame.dtype)
            if self.normalise:
                features = unit_vectors(features)
            return self.scale * F.linear(features, self.frame) + self.bias
