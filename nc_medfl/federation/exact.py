"""Sums that do not depend on the order of their terms.

A sum in float64 differs in its last bits with the order in which the terms come, so a federation would end with
another model when its sites answer in another order. Here every addition keeps what it rounds off in a second
float64 (Knuth's two-sum), and the two together hold some 106 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Elements at a time: the scratch of an addition then fits a processor's cache, whatever the size of the tensor.
_CHUNK = 1 << 16


class ExactSum:
    """A running sum of tensors of one shape, ``2 x 8`` bytes an element.

    The sum is exact, and so the same in any order, while all bits of an element's terms and of their partial sums lie
    within 106 binary places of each other. For float32 values under whole weights below 2**20, over at most 2**10
    terms, that holds as long as the values of one element lie within a factor of 2**40 of each other (zeros aside).
    Beyond that the order can matter at about 2**-100 of the largest term.

    Args:
        shape: of the terms.

    Example:
        >>> total = ExactSum((1,))
        >>> for term in (1e16, 1.0, -1e16):
        ...     total.add(torch.tensor([term], dtype=torch.float64))
        >>> total.value()
        tensor([1.], dtype=torch.float64)
    """

    def __init__(self, shape: torch.Size | tuple[int, ...]) -> None:
        self.shape = torch.Size(shape)
        self._high = torch.zeros(self.shape.numel(), dtype=torch.float64)
        self._low = torch.zeros(self.shape.numel(), dtype=torch.float64)

    def add(self, term: Tensor, weight: float | Tensor = 1.0) -> None:
        """Add a term times a weight. The product is rounded to float64, by itself and so the same in any order.

        Args:
            term: of the sum's shape, any real type.
            weight: a number, or a tensor that spreads to the sum's shape.

        Raises:
            ValueError: if the shape differs.
        """
        if term.shape != self.shape:
            raise ValueError(f"a term of shape {list(term.shape)} in a sum of {list(self.shape)}")
        flat = term.reshape(-1)
        each = weight.expand(self.shape).reshape(-1) if isinstance(weight, Tensor) else None
        for start in range(0, len(flat), _CHUNK):
            part = slice(start, start + _CHUNK)
            factor = weight if each is None else each[part].double()
            self._add_part(part, flat[part].double() * factor)

    def _add_part(self, part: slice, term: Tensor) -> None:
        high = self._high[part]
        total = high + term
        # What of the total came from the term; the rest of both is what rounding took.
        taken = total - high
        self._low[part] += (high - (total - taken)) + (term - taken)
        high.copy_(total)

    def value(self) -> Tensor:
        """The sum, rounded once to float64."""
        return (self._high + self._low).reshape(self.shape)
