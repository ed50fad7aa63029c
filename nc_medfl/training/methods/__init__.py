"""The federated methods: one file each, holding its network, its local loss and what it can report.

``get_method(name)`` gives one; a new method is a new file and a line here.
"""

from __future__ import annotations

from nc_medfl.training.methods import fedavg, fedbn, fedetf, fednca, fednh, fedprox, moon, scaffold
from nc_medfl.training.methods.base import LocalMemory, LossParts, Method, Tensors, join_extras, split_extras

_MODULES = (fednca, fedavg, fedprox, fedbn, scaffold, moon, fedetf, fednh)
_METHODS: dict[str, Method] = {module.METHOD.name: module.METHOD for module in _MODULES}


def get_method(name: str) -> Method:
    """The method by its name in a job's settings (see ``nc_medfl.config.MethodName``)."""
    return _METHODS[name]


__all__ = ["LocalMemory", "LossParts", "Method", "Tensors", "get_method", "join_extras", "split_extras"]
