"""The preflight at a site: everything that can be known before a federation starts, one result a question.

Each check is a function that looks and returns a :class:`Result`; none changes anything. Nothing that they say
names a patient.
"""

from __future__ import annotations

from nc_medfl.federation.preflight.result import Result
from nc_medfl.federation.preflight.run import preflight

__all__ = ["Result", "preflight"]
