"""Where a federation runs: FLARE's simulator, a POC on this machine, or a deployment in the field.

The job is the same everywhere, and so is what comes back: a folder with the server's results. FLARE itself runs in
child processes, so that its output goes to log files and so that stopping the command stops what it started.
"""

from __future__ import annotations

from nc_medfl.federation.environments.base import Environment, Federation, OnEvent
from nc_medfl.federation.environments.poc import Poc
from nc_medfl.federation.environments.production import Production
from nc_medfl.federation.environments.simulator import Simulator

__all__ = ["Environment", "Federation", "OnEvent", "Poc", "Production", "Simulator"]
