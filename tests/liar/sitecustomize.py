"""Python runs this at its start where its folder is on PYTHONPATH: one site of a simulation has a liar's machine."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_WORKER, _MODULE = "nvflare.private.fed.app.simulator.simulator_worker", "nc_medfl.federation.client"


class _Altered(MetaPathFinder):
    """Alters one module when it is imported; FLARE's simulator gives a site a minute to start, so not before."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def execute(module: Any) -> None:
            from lies_support import ENV_MARK, corrupt

            load(module)
            corrupt(module, os.environ[ENV_MARK])

        spec.loader.exec_module = execute  # type: ignore[method-assign]
        return spec


if _WORKER in sys.orig_argv and "mallory" in sys.orig_argv:
    sys.meta_path.insert(0, _Altered())
