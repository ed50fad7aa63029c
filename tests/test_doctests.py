"""The examples in docstrings hold."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import nc_medfl


def test_the_doctests_of_public_modules_hold() -> None:

    tried = 0
    for module in pkgutil.walk_packages(nc_medfl.__path__, "nc_medfl."):
        if not module.name.endswith("simulator_process"):
            result = doctest.testmod(importlib.import_module(module.name))
            assert result.failed == 0, module.name
            tried += result.attempted
    assert tried > 0
