"""Where each setting of a job comes from: package, preset of its method, line of its file, or command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from nc_medfl.config import JobSettings, read_job_file
from nc_medfl.overrides import leaves
from nc_medfl.presets import published, with_presets

Source = Literal["default", "preset", "file", "set", "published"]


@dataclass(frozen=True)
class Origin:
    """A setting and where its value comes from.

    Attributes:
        setting: its name, with dots.
        value: as the job has it, a JSON value.
        default: as the package has it for this method where nothing says otherwise.
        source: ``default`` (the package), ``preset`` (of the method, below what the file says), ``file``, ``set``
            (the command line) or ``published`` (``paper_compat``, above everything).
        place: the same for a person: the file and its line, the override, and so on.
        line: of the file.
    """

    setting: str
    value: Any
    default: Any
    source: Source
    place: str
    line: int | None = None

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def origins(path: str | Path, overrides: Sequence[str] = ()) -> tuple[JobSettings, list[Origin]]:
    """The settings of a job and where each comes from, in the order of the settings.

    Args:
        path: the ``job.yaml``.
        overrides: as of :func:`nc_medfl.config.load_job_settings`.

    Raises:
        UserError: likewise.
    """
    settings, file, overridden = read_job_file(path, overrides)
    plain = leaves(JobSettings(method=settings.method).model_dump(mode="json"))
    compat = settings.method == "fednca" and settings.paper_compat
    on_top = leaves(published()) if compat else {}
    below = leaves(with_presets({"method": settings.method})) if not compat else {}
    plain[("method",)] = JobSettings.model_fields["method"].default
    out = []
    for keys, value in _values(settings).items():
        line = None
        source: Source = "default"
        place = "default"
        if keys in on_top:
            source, place = "published", "published settings (paper_compat: true)"
        elif text := next((text for one, text in overridden.items() if one[: len(keys)] == keys), None):
            source, place = "set", f"--set {text}"
        elif file.holds(keys) and (line := file.line(keys)):
            source, place = "file", f"{path}, line {line}"
        elif keys in below and keys != ("method",):
            source, place = "preset", f"default of {settings.method}"
        out.append(Origin(".".join(keys), value, plain.get(keys), source, place, line))
    return settings, out


def _values(settings: JobSettings) -> dict[tuple[str, ...], Any]:
    """Single settings by the keys that lead to them; findings that are written out are one."""
    content = settings.model_dump(mode="json")
    vocabulary = content["vocabulary"]
    return {("vocabulary",) if keys[0] == "vocabulary" else keys: value for keys, value in leaves(content).items()} | {
        ("vocabulary",): vocabulary
    }
