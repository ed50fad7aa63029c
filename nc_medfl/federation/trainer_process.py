"""The process that does one task of a site; started by :mod:`nc_medfl.federation.trainers`.

``python -m nc_medfl.federation.trainer_process FOLDER``, alone or under torchrun.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from nc_medfl.federation import keys
from nc_medfl.federation.processes import end_with_parent


def main(folder: Path) -> int:
    """Do the task in a folder, and leave the answer there, or the error."""
    end_with_parent(parent=int(os.environ[keys.ENV_PARENT]))
    from nc_medfl.federation.trainers import ERROR

    try:
        _do(folder)
    except Exception as error:
        traceback.print_exc()
        content = {"kind": type(error).__name__, "message": str(error), "category": getattr(error, "category", "")}
        (folder / ERROR).write_text(json.dumps(content), encoding="utf-8")
        return 1
    return 0


def _do(folder: Path) -> None:
    import torch

    from nc_medfl.federation.tasks import do_task, make_worker
    from nc_medfl.federation.trainers import read_request, write_answer
    from nc_medfl.training import parallel

    settings, config, state_root, task = read_request(folder)
    if config.devices:
        device = config.devices[int(os.environ.get("LOCAL_RANK", "0"))]
        config = config.model_copy(update={"device": device})
        if device != "cpu":
            torch.cuda.set_device(device)
    with parallel.group(torch.device(config.device if config.device != "auto" else "cpu")):
        worker = make_worker(settings, config, state_root, task.run_id)
        answer = do_task(worker, task)
        first = parallel.rank() == 0
    if first:
        write_answer(folder, answer)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
