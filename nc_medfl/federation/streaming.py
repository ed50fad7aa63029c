"""The average of updates, taken as they arrive.

The same arithmetic as :func:`nc_medfl.federation.averaging.average`, which is its reference, in memory that does not
grow with the number of sites: an update is added to running sums and forgotten. The sums do not depend on the order
of arrival (see :class:`nc_medfl.federation.exact.ExactSum`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nc_medfl.federation.class_statistics import Floats
from nc_medfl.federation.exact import ExactSum


class RunningAverage:
    """Weighted sums of one round's updates.

    A site that withholds its positives of a class has that class's mean over the sites that tell, which is known
    only at the end; so the rows of those sites are added up apart.

    Args:
        previous: the model that the round started from; its names, shapes and types are kept.
        weighting: ``uniform`` (the published method), ``samples`` or ``class_aware``.
        class_axes: for parameters that belong to classes, the axis along which the classes lie.
    """

    def __init__(self, previous: Mapping[str, Tensor], *, weighting: str, class_axes: Mapping[str, int]) -> None:
        self._previous = previous
        self._weighting = weighting
        self._axes = {n: a for n, a in class_axes.items() if n in previous} if weighting == "class_aware" else {}
        self._sums: dict[str, ExactSum] = {}
        self._withheld: dict[str, ExactSum] = {}
        self._weight = 0
        self._positives: _Positives | None = None
        self.n_updates = 0

    def add(self, params: Mapping[str, Tensor], *, n_samples: int, positives: Floats) -> None:
        """Add one site's update.

        Args:
            params: parameters and buffers by name, those of the previous model.
            n_samples: training images.
            positives: of each class, ``[C]``; NaN where the site withholds its count.
        """
        if not self._sums:
            self._start(len(positives))
        weight = 1 if self._weighting == "uniform" else n_samples
        told = ~np.isnan(positives)
        known = torch.from_numpy(np.where(told, positives, 0.0))
        silent = torch.from_numpy((~told).astype(np.float64))
        for name, total in self._sums.items():
            value = params[name]
            axis = self._axes.get(name)
            if axis is None:
                total.add(value, weight)
                continue
            total.add(value, _along(known, axis, value.ndim))
            if not told.all():
                self._sum_of_withheld(name).add(value, _along(silent, axis, value.ndim))
        self._weight += weight
        assert self._positives is not None
        self._positives.add(known, silent)
        self.n_updates += 1

    def result(self) -> dict[str, Tensor]:
        """The next global model; the previous one if no update was added.

        Integer buffers hold the rounded mean, as integers.
        """
        if not self.n_updates:
            return dict(self._previous)
        out = {}
        for name, old in self._previous.items():
            axis = self._axes.get(name)
            value = self._sums[name].value() / self._weight if axis is None else self._by_class(name, old, axis)
            out[name] = (value if old.is_floating_point() else value.round()).to(old.dtype)
        return out

    def _start(self, num_classes: int) -> None:
        self._sums = {name: ExactSum(value.shape) for name, value in self._previous.items()}
        self._positives = _Positives(num_classes)

    def _sum_of_withheld(self, name: str) -> ExactSum:
        if name not in self._withheld:
            self._withheld[name] = ExactSum(self._previous[name].shape)
        return self._withheld[name]

    def _by_class(self, name: str, old: Tensor, axis: int) -> Tensor:
        """``(sum of told rows + m * sum of withheld rows) / (T + m * W)``, with m the mean of the told counts."""
        assert self._positives is not None
        mean, total = self._positives.mean_and_total()
        numerator = self._sums[name].value()
        if name in self._withheld:
            numerator = numerator + self._withheld[name].value() * _along(mean, axis, old.ndim)
        spread = _along(total, axis, old.ndim)
        return torch.where(spread > 0, numerator / spread.clamp(min=torch.finfo(torch.float64).tiny), old.double())


class _Positives:
    """Running counts over the sites: positives told, sites that tell, sites that withhold; each ``[C]``."""

    def __init__(self, num_classes: int) -> None:
        self._total = ExactSum((num_classes,))
        self._tell = torch.zeros(num_classes, dtype=torch.float64)
        self._silent = torch.zeros(num_classes, dtype=torch.float64)

    def add(self, known: Tensor, silent: Tensor) -> None:
        self._total.add(known)
        self._silent += silent
        self._tell += 1 - silent

    def mean_and_total(self) -> tuple[Tensor, Tensor]:
        """Mean of the told counts (1 where nobody tells), and the sum with that mean for each withheld one."""
        told = self._total.value()
        mean = torch.where(self._tell > 0, told / self._tell.clamp(min=1), torch.ones_like(told))
        return mean, told + mean * self._silent


def _along(values: Tensor, axis: int, ndim: int) -> Any:
    """A tensor over classes, shaped to lie along an axis."""
    shape = [1] * ndim
    shape[axis] = len(values)
    return values.reshape(shape)
