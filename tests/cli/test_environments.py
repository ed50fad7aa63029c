"""Options that say where a federation runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from nc_medfl.cli.environments import Options, make_environment
from nc_medfl.errors import UserError
from nc_medfl.federation.environments import Poc, Simulator

SITES = Path("sites")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (Options("moon"), "--env moon: not known. Use sim, poc or prod."),
        (Options("sim"), "--env sim: --sites is missing."),
        (Options("poc"), "--env poc: --sites is missing."),
        (Options("prod"), "--env prod: --admin-kit is missing."),
        (Options("sim", SITES, keep_poc=True), "--keep-poc: means nothing to --env sim."),
        (Options("sim", SITES, job_id="1"), "--job-id: means nothing to --env sim."),
        (Options("prod", admin_kit=SITES, gpus="0"), "--gpus: means nothing to --env prod."),
        (Options("prod", admin_kit=SITES, threads=2), "--threads: means nothing to --env prod."),
        (Options("sim", SITES, gpus="0,zero"), "--gpus 0,zero: not a list of device numbers."),
        (Options("sim", SITES, gpus="999"), "--gpus: there is no device 999;"),
        (Options("poc", SITES, keep_poc=True), "--keep-poc: a POC that is kept needs a folder of its own."),
        (Options("poc", SITES, poc_dir=Path("a b")), "--poc-dir a b: FLARE can't live under a path with blanks."),
    ],
)
def test_what_does_not_fit_together_is_said_in_one_line(options: Options, said: str) -> None:
    with pytest.raises(UserError) as error:
        make_environment(options, Path("jobs/fednca_cxr"), Path("out"))
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


def test_the_options_make_the_environment() -> None:
    job, out = Path("jobs/fednca_cxr"), Path("out")
    assert make_environment(Options("sim", SITES, threads=2), job, out) == Simulator(threads=2)
    kept = Options("poc", SITES, poc_dir=Path("poc"), keep_poc=True)
    assert make_environment(kept, job, out) == Poc(Path("poc"), keep=True)
