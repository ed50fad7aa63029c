"""Which modules the pages of the Python API show; mkdocstrings writes them from the docstrings."""

from __future__ import annotations

import importlib

#: Package to the modules that make its public side; none where the package exports its names itself.
PACKAGES: dict[str, tuple[str, ...]] = {
    "config": (),
    "networks": (),
    "losses": (),
    "metrics": ("collapse", "calibration", "fairness", "delong"),
    "labels": (),
    "data": ("settings", "prepare", "store", "manifest", "dataset", "transforms", "withdraw", "synthetic"),
    "partition": (),
    "training": ("trainer", "methods.base"),
    "evaluation": ("predictions", "compare", "thresholds"),
    "federation": ("local", "jobs", "recipe", "site", "environments", "run_folder"),
    "inference": ("model_file", "description", "looking"),
    "report": (),
    "benchmark": ("matrix", "runner", "results"),
}
#: Modules at the top of the package.
TOP = ("errors",)


def pages() -> dict[str, str]:
    """Path below ``docs`` of each page, and its Markdown."""
    out = {
        "reference/api/index.md": "# Python API\n\nEvery public function and class, from its docstring. "
        "Data flows one way; a package imports only from those above it, or beside it.\n\n"
        + "\n".join(f"- [`nc_medfl.{name}`]({name}.md): {_first_line(name)}" for name in (*TOP, *PACKAGES))
        + "\n"
    }
    for name in TOP:
        out[f"reference/api/{name}.md"] = f"# nc_medfl.{name}\n\n{_shown(name)}"
    for name, modules in PACKAGES.items():
        body = _shown(name) + "".join(f"\n## {module}\n\n{_shown(f'{name}.{module}', 3)}" for module in modules)
        out[f"reference/api/{name}.md"] = f"# nc_medfl.{name}\n\n{body}"
    return out


def _shown(name: str, level: int = 2) -> str:
    return f"::: nc_medfl.{name}\n    options:\n      heading_level: {level}\n"


def _first_line(name: str) -> str:
    text = importlib.import_module(f"nc_medfl.{name}").__doc__ or ""
    return " ".join(text.strip().split("\n\n", maxsplit=1)[0].split())
