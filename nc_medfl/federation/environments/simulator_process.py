"""The child process that holds FLARE's simulator; started by :mod:`nc_medfl.federation.environments.simulator`.

``python -m nc_medfl.federation.environments.simulator_process SPEC.json``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nc_medfl.federation.processes import end_with_parent


def main(spec_file: str) -> None:
    """Build the recipe and run it on FLARE's simulator."""
    end_with_parent()
    spec = json.loads(Path(spec_file).read_text(encoding="utf-8"))
    # nvflare.recipe reads sys.argv when it is imported, so it must not see ours.
    sys.argv = sys.argv[:1]
    from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
    from nvflare.recipe.sim_env import SimEnv

    from nc_medfl.config import JobSettings
    from nc_medfl.federation.jobs import recipe_builder
    from nc_medfl.settings import parse

    settings = parse(JobSettings, spec["settings"], where="job settings")
    local = Path(spec["workspace"]) / settings.name / "local"
    local.mkdir(parents=True, exist_ok=True)
    policy = {"format_version": 2, "class_allow_list": [*DEFAULT_CLASS_ALLOW_LIST, "nc_medfl."]}
    (local / "resources.json").write_text(json.dumps(policy, indent=2), encoding="utf-8")

    recipe = recipe_builder(spec["job_folder"])(settings, min_clients=len(spec["sites"]))
    environment = SimEnv(clients=spec["sites"], num_threads=spec["threads"], workspace_root=spec["workspace"])
    recipe.run(environment)


if __name__ == "__main__":
    main(sys.argv[1])
