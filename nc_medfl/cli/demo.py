"""``nc-medfl demo``: the whole road on synthetic hospitals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nc_medfl.cli.console import note, progress_bar, warn
from nc_medfl.cli.options import AsJson
from nc_medfl.cli.run import run_federation
from nc_medfl.config import JobSettings, SiteConfig, save_site_config
from nc_medfl.errors import UserError
from nc_medfl.settings import parse

#: What the demo changes in the published settings, so that it ends in minutes on two cores: a small network
#: on small images, which then wants a larger step.
DEMO_SETTINGS: dict[str, Any] = {
    "rounds": 30,
    "image_size": 64,
    "network": {"backbone": "small"},
    "training": {"lr": 1.0e-3, "local_epochs": 2},
}


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything; an earlier demo there is replaced.")] = Path(
        "demo-run"
    ),
    method: Annotated[str, typer.Option(help="fednca (FedNCA-ML) or fedavg (the plain baseline).")] = "fednca",
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds of the federation.")] = None,
    patients: Annotated[int, typer.Option(min=20, help="Synthetic patients a hospital.")] = 250,
    seed: Annotated[int, typer.Option(min=0, help="Decides patients, images, weights and shuffles.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Draw four synthetic hospitals as DICOM, prepare them, federate, and write a report per site.

    Rare findings are drawn more often than in life, so that each can be tested.

    Example: `nc-medfl demo --out demo-run`
    """
    from nc_medfl.federation.environments import Simulator
    from nc_medfl.federation.run_folder import fresh_folder

    if method not in ("fednca", "fedavg"):
        raise UserError(f"--method {method}: not known. Use fednca or fedavg.")
    content = {**DEMO_SETTINGS, "name": f"demo_{method}", "method": method, "seed": seed}
    settings = parse(JobSettings, content, where="demo settings")
    if rounds is not None:
        settings = settings.model_copy(update={"rounds": rounds})
    fresh_folder(out)
    _hospitals(out, patients, seed)
    run_federation(settings, Simulator(), out, sites=out / "sites", fresh=False, as_json=as_json)


def _hospitals(out: Path, patients: int, seed: int) -> None:
    """Draw the hospitals and prepare each, as each would at home."""
    from nc_medfl.data.prepare import prepare
    from nc_medfl.data.settings import PrepareSettings, default_workers
    from nc_medfl.data.synthetic import make_hospitals

    with progress_bar("drawing synthetic hospitals") as advance:
        folders = make_hospitals(out / "hospitals", patients_per_hospital=patients, seed=seed, progress=advance)
    for folder in folders:
        home = out / "sites" / folder.name
        home.mkdir(parents=True)
        # Nobody's secret: these patients don't exist, and a fixed salt gives the same bytes each time.
        salt = home / "salt.bin"
        salt.write_bytes(f"synthetic {folder.name} {seed:08d}".encode())
        with progress_bar(f"preparing {folder.name}") as advance:
            summary = prepare(
                PrepareSettings(
                    source="dicom",
                    images=folder.images,
                    labels=folder.labels,
                    label_map=folder.label_map,
                    out=home / "store",
                    site=folder.name,
                    size=64,
                    seed=seed,
                    salt_file=salt,
                    workers=default_workers(),
                ),
                advance,
            )
        for warning in summary.warnings:
            warn(f"{folder.name}: {warning}")
        config = SiteConfig(name=folder.name, store=Path("store"), salt_file=Path("salt.bin"))
        save_site_config(config, home / "site.yaml")
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(summary.counts.items()))
        note(f"{folder.name}: {outcomes}")
