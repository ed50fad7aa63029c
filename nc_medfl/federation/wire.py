"""What travels: the type of a model's numbers on the way, and how many bytes they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nc_medfl.federation import keys

_OWN = "nc_medfl."
#: Names as in a job's ``transfer``.
TYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def to_wire(params: Mapping[str, Any], transfer: str) -> dict[str, Any]:
    """A model as it travels: float32 tensors in the type of the transfer, everything else as it is.

    A tensor with a finite value that float16 can't hold (beyond 65,504) travels in float32. A NaN or an infinity
    stays one, for the receiver to refuse.

    Args:
        params: parameters and buffers by name; not changed.
        transfer: ``float32``, ``float16`` or ``bfloat16``.
    """
    target = TYPES[transfer]
    return {name: _narrowed(value, target) for name, value in params.items()}


def from_wire(params: Mapping[str, Any], transfer: str) -> dict[str, Any]:
    """A model as it was before :func:`to_wire`: what has the type of the transfer becomes float32.

    Args:
        params: as received. What is of any other type stays as it came, for the receiver's checks to see.
        transfer: as the job says.
    """
    source = TYPES[transfer]
    return {
        name: value.float() if isinstance(value, Tensor) and value.dtype == source else value
        for name, value in params.items()
    }


def payload_bytes(params: Any, meta: Any = None) -> int:
    """Bytes of the numbers in a message: tensors, arrays, texts; without names and framing (some 100 bytes a tensor).

    Args:
        params: parameters and buffers by name, or anything else (which counts nothing).
        meta: what goes beside them: arrays, texts, numbers, and mappings and lists of those.
    """
    return _bytes(params) + _bytes(meta)


def own_meta(meta: Any) -> dict[str, Any]:
    """What this package puts beside a model; what FLARE adds differs in length from run to run.

    Args:
        meta: of a message.
    """
    given = meta if isinstance(meta, Mapping) else {}
    return {k: v for k, v in given.items() if str(k).startswith(_OWN) and k != keys.BYTES}


def _bytes(value: Any, depth: int = 4) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, np.ndarray | np.generic):
        return int(value.nbytes)
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, bool | int | float):
        return 8
    if isinstance(value, Mapping) and depth:
        return sum(_bytes(part, depth - 1) for part in value.values())
    if isinstance(value, list | tuple) and depth:
        return sum(_bytes(part, depth - 1) for part in value)
    return 0


def _narrowed(value: Any, target: torch.dtype) -> Any:
    if not isinstance(value, Tensor) or value.dtype != torch.float32 or target == torch.float32:
        return value
    narrow = value.to(target)
    lost = torch.isinf(narrow) & torch.isfinite(value)
    return value if bool(lost.any()) else narrow
