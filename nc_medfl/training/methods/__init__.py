"""The federated methods: one file each, holding its network, its local loss and what it can report.

``get_method(name)`` gives one; a new method is a new file and a line here, or a plug-in (docs/how-to/extend.md).
"""

from __future__ import annotations

import dataclasses
from functools import cache

from nc_medfl.plugins import load_plugin
from nc_medfl.training.methods import fedavg, fedbn, fedetf, fednca, fednh, fedprox, moon, scaffold
from nc_medfl.training.methods.base import LocalMemory, LossParts, Method, Tensors, join_extras, split_extras

_MODULES = (fednca, fedavg, fedprox, fedbn, scaffold, moon, fedetf, fednh)
_METHODS: dict[str, Method] = {module.METHOD.name: module.METHOD for module in _MODULES}


def get_method(name: str) -> Method:
    """The method by its name in a job's settings (see ``nc_medfl.names.MethodName``).

    Raises:
        UserError: if a plug-in of this name can't be used.
        KeyError: if there is none.
    """
    return _METHODS[name] if name in _METHODS else _from_plugin(name)


@cache
def _from_plugin(name: str) -> Method:
    found = load_plugin("methods", name, Method, _METHODS)
    if found is None:
        raise KeyError(name)
    # Reports and run folders have the name that the job has.
    return dataclasses.replace(found, name=name)


__all__ = ["LocalMemory", "LossParts", "Method", "Tensors", "get_method", "join_extras", "split_extras"]
