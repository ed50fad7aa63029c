"""The federated methods: one file each, holding its network, its local loss and what it can report.

``get_method(name)`` gives one; a new method is a new file and a line here.
"""

from __future__ import annotations

from nc_medfl.training.methods import fedavg, fednca
from nc_medfl.training.methods.base import LossParts, Method

_METHODS: dict[str, Method] = {m.name: m for m in (fednca.METHOD, fedavg.METHOD)}


def get_method(name: str) -> Method:
    """The method by its name in a job's settings (``fednca`` or ``fedavg``)."""
    return _METHODS[name]


__all__ = ["LossParts", "Method", "get_method"]
