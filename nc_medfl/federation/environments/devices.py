"""Sharing a machine's devices among the sites that it plays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nc_medfl.config import SiteConfig, load_site_config, save_site_config
from nc_medfl.errors import UserError
from nc_medfl.federation.site import site_files


def parse_gpus(text: str) -> tuple[int, ...]:
    """Read ``--gpus``.

    Raises:
        UserError: if it isn't a list of different device numbers.

    Example:
        >>> parse_gpus("0,2")
        (0, 2)
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len({int(part) for part in parts}) < len(parts):
        raise UserError(f"--gpus {text}: not a list of device numbers. Write them with commas, as in --gpus 0,1.")
    return tuple(int(part) for part in parts)


def check_gpus(gpus: Sequence[int], available: int) -> None:
    """Check that this machine has the devices.

    Raises:
        UserError: if it has not.
    """
    for gpu in gpus:
        if gpu >= available:
            has = f"devices 0 to {available - 1}" if available else "no GPU that PyTorch can use"
            raise UserError(f"--gpus: there is no device {gpu}; this machine has {has}. Leave --gpus out, or mend it.")


def deal_out(configs: Mapping[str, SiteConfig], gpus: Sequence[int]) -> dict[str, SiteConfig]:
    """Give each site one of the devices, in turn by name. A site that is set to the CPU stays there.

    Args:
        configs: the sites' settings by name.
        gpus: device numbers; none leaves the settings as they are.

    Raises:
        UserError: if there are more devices than sites to use them, or a site names several of its own.
    """
    if not gpus:
        return dict(configs)
    takers = [name for name in sorted(configs) if configs[name].device != "cpu" or configs[name].devices]
    for name in takers:
        if len(configs[name].devices) > 1:
            raise UserError(f"site {name}: it trains on several devices of its own. Take 'devices' out, or --gpus.")
    if len(gpus) > len(takers):
        raise UserError(f"--gpus: {len(takers)} sites can't use {len(gpus)} devices. Name {len(takers)} or fewer.")
    device_of = {name: f"cuda:{gpus[place % len(gpus)]}" for place, name in enumerate(takers)}
    return {
        name: config.model_copy(update={"device": device_of[name], "devices": ()}) if name in device_of else config
        for name, config in configs.items()
    }


def settle_sites(sites: Path, folder: Path, gpus: Sequence[int]) -> Path:
    """Write the settings of every site, with devices dealt out, into a folder that ``site_files`` reads.

    Returns:
        The folder.

    Raises:
        UserError: as :func:`deal_out`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    configs = {name: load_site_config(path) for name, path in site_files(sites).items()}
    for name, config in deal_out(configs, gpus).items():
        save_site_config(config, folder / f"{name}.yaml")
    return folder
