"""Checks of the machine: room on disk and in memory, the device, the packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil

from nc_medfl import __version__
from nc_medfl.config import SiteConfig
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError
from nc_medfl.federation.preflight.result import Result, failed, ok, warning
from nc_medfl.plugins import plugin_packages

_GIB = 2**30
#: FLARE's workspace takes models and logs of every job.
_DISK_NEEDED, _DISK_WANTED = 1 * _GIB, 10 * _GIB
#: PyTorch, MONAI and FLARE take most of a GiB before the first image.
_MEMORY_NEEDED, _MEMORY_WANTED = 1 * _GIB, 4 * _GIB
#: The series that the package was written for.
_FLARE = "2.9."


def check_disk(folder: Path) -> Result:
    """Room, and the right to write, where FLARE keeps what it works with."""
    place = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
    if not os.access(place, os.W_OK):
        return failed("disk", f"{place} cannot be written.", "Run as the user who owns it.")
    free = shutil.disk_usage(place).free
    return _room("disk", free, f"free at {place}", _DISK_NEEDED, _DISK_WANTED, "Make room there.")


def check_memory() -> Result:
    """Memory that is free now, in a container no more than it may use."""
    available = min(psutil.virtual_memory().available, _container_memory())
    remedy = "End other programs, or lower batch_size in site.yaml."
    return _room("memory", available, "free", _MEMORY_NEEDED, _MEMORY_WANTED, remedy)


def _room(name: str, there: int, what: str, needed: int, wanted: int, remedy: str) -> Result:
    text = f"{there / _GIB:.1f} GiB {what}"
    if there < needed:
        return failed(name, f"{text}, {needed / _GIB:.0f} are needed.", remedy)
    if there < wanted:
        return warning(name, f"{text}, {wanted / _GIB:.0f} or more are wanted.", remedy)
    return ok(name, text)


def _container_memory(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that a container may still take; a number beyond all memory where there is no limit."""
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        used = (root / "memory.current").read_text(encoding="ascii").strip()
    except OSError:
        return sys.maxsize
    return int(limit) - int(used) if limit.isdecimal() and used.isdecimal() else sys.maxsize


def check_device(config: SiteConfig) -> Result:
    """Whether the device that the site asks for is there, and as many cores as threads."""
    import torch

    from nc_medfl.training.device import pick_device

    try:
        device = pick_device(config.device)
    except UserError as error:
        return failed("device", str(error), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        text = f"{torch.cuda.get_device_name(device)}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    else:
        text = f"cpu, {config.threads or cores} threads on {cores} cores"
    if config.threads and config.threads > cores:
        return warning(
            "device", f"{text}: more threads than cores slow each other down.", "Lower threads in site.yaml."
        )
    return ok("device", f"{text} (asked for: {config.device})")


def check_packages(store: Store | None) -> Result:
    """Versions of the package and of FLARE, and whether the store was prepared by the same."""
    flare = metadata.version("nvflare")
    text = (
        f"nc_medfl {__version__}, nvflare {flare}, torch {metadata.version('torch')}, Python {sys.version.split()[0]}"
    )
    if plugins := plugin_packages("backbones") | plugin_packages("methods"):
        text += "; plug-ins: " + ", ".join(f"{name} ({package})" for name, package in sorted(plugins.items()))
    if not flare.startswith(_FLARE):
        return failed("packages", f"{text}: made for nvflare {_FLARE}*.", "Install nc_medfl with its constraints.txt.")
    if store is not None and (made := str(store.info.get("package_version"))) != __version__:
        return warning("packages", f"{text}; the store was prepared by nc_medfl {made}.", "Prepare it again.")
    return ok("packages", text)


def check_python(folder: Path) -> Result:
    """Whether the ``python3`` that a kit's ``start.sh`` runs has the packages."""
    python = shutil.which("python3")
    if python is None:
        return failed("python3", "start.sh runs python3, and there is none on the PATH.", "Activate the environment.")
    code = "import importlib.util as u, sys; sys.exit(not (u.find_spec('nc_medfl') and u.find_spec('nvflare')))"
    # In the kit's folder, so that a checkout in the present one is not taken for an installation.
    done = subprocess.run([python, "-c", code], cwd=folder, capture_output=True, timeout=60, check=False)
    if done.returncode:
        text = f"start.sh runs {python}, which lacks nc_medfl or nvflare."
        return failed("python3", text, "Activate the environment in the shell that runs start.sh.")
    return ok("python3", f"{python} has nc_medfl and nvflare")
