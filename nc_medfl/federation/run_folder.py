"""The folder a run leaves behind: ``run.json``, the tables, the models."""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from nc_medfl import __version__
from nc_medfl.config import JobSettings
from nc_medfl.data.store import Store, write_json
from nc_medfl.errors import UserError, writing
from nc_medfl.federation import keys
from nc_medfl.federation.site import label_statistics_rows
from nc_medfl.federation.state import STATE_JSON
from nc_medfl.labels import load_vocabulary

SCHEMA_VERSION = 1
_MODELS = (keys.BEST_MODEL, keys.LAST_MODEL)
_TABLES = (keys.ROUNDS_CSV, keys.COLLAPSE_CSV, keys.UPDATES_CSV, keys.PRIVACY_CSV)
RUN_JSON = "run.json"
#: FLARE's own workspace in a run folder, and what a resumed run goes on from.
FLARE_FOLDER, STATE_FOLDER = "flare", "state"
LABEL_STATISTICS = "label_statistics.csv"
_MARKER = ".nc-medfl"
_PACKAGES = ("torch", "monai", "nvflare", "numpy", "pydicom", "scikit-image")


def fresh_folder(out: Path, keep: Iterable[Path] = ()) -> None:
    """Make ``out`` an empty folder, if it is empty, new, or an earlier run's.

    Args:
        out: the folder.
        keep: what is still needed, and so must not lie in it.

    Raises:
        UserError: if something else is in it, which is left alone, or it can't be made.
    """
    for needed in keep:
        if needed.resolve().is_relative_to(out.resolve()):
            raise UserError(f"{out}: would be emptied, but {needed} lies in it. Give --out another folder.")
    with writing(out, "Give --out another folder."):
        _empty(out)


def _empty(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file. Give --out a folder.")
    if out.is_dir() and any(out.iterdir()):
        if not (out / _MARKER).is_file():
            raise UserError(f"{out}: not empty, and not an earlier run. Give --out another folder.")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER).write_text("A folder that nc-medfl fills, and empties before it fills it again.\n")


def check_resumable(out: Path, settings: JobSettings) -> dict[str, Any]:
    """Check that a run in ``out`` can go on, and clear FLARE's own files away, which start afresh.

    Returns:
        Its ``run.json``.

    Raises:
        UserError: if there is no run, it has finished, or it had other settings.
    """
    run = read_run(out)
    if run.get("outcome") == "finished":
        raise UserError(f"{out}: this run has finished. Leave --resume out to run it again.")
    before, now = _flat(run["settings"]), _flat(settings.for_sites().model_dump(mode="json"))
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    changed = [key for key in changed if not key.startswith("federation.")]
    if changed:
        raise UserError(
            f"{out}: this run had another {changed[0]} ({before.get(changed[0])!r}, not {now.get(changed[0])!r}). "
            "Resume with the settings it had, or leave --resume out to start afresh."
        )
    shutil.rmtree(out / FLARE_FOLDER, ignore_errors=True)
    return run


def rounds_to_go_on_from(out: Path) -> int:
    """How many finished rounds an unfinished run in ``out`` has kept there; 0 for none, and for no run at all.

    Those of a job in production lie with its server, and stay there whatever becomes of ``out``.
    """
    kept = (out / STATE_FOLDER / "server").glob(f"*/*/round-*/{STATE_JSON}")
    return max((int(path.parent.name.removeprefix("round-")) for path in kept), default=0)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def start_run(
    out: Path, settings: JobSettings, env: str, stores: Mapping[str, Store], before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write ``run.json`` of a run that begins, and the label statistics of its sites.

    Args:
        out: the run folder.
        settings: the job's.
        env: where it runs.
        stores: of the sites; none where they are not on this machine.
        before: its ``run.json`` so far, if it goes on.
    """
    vocabulary = load_vocabulary(settings.vocabulary)
    run: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": settings.name,
        "kind": settings.kind,
        "method": settings.method,
        "env": env,
        "settings": settings.for_sites().model_dump(mode="json"),
        "seed": settings.seed,
        "versions": {"python": platform.python_version(), "nc_medfl": __version__}
        | {name: metadata.version(name) for name in _PACKAGES},
        "fingerprints": {"vocabulary": vocabulary.fingerprint}
        | {f"preparation:{site}": str(store.info["settings_hash"]) for site, store in stores.items()}
        | _fingerprint_of_weights(settings),
        "vocabulary": list(vocabulary.findings),
        "sites": list(stores),
        "rounds": settings.rounds,
        "best_round": None,
        "started": before["started"] if before else _now(),
        "resumed": int(before.get("resumed", 0)) + 1 if before else 0,
        "ended": None,
        "outcome": "running",
    }
    write_json(out / RUN_JSON, run)
    if stores and settings.kind != "label_statistics":  # whose sites withhold small counts
        write_table(out / LABEL_STATISTICS, label_statistics_rows(stores))
    return run


def _fingerprint_of_weights(settings: JobSettings) -> dict[str, str]:
    """What the run started from, without the path that it lay at; nothing where that is on the server's disk alone."""
    path = settings.network.init_weights
    if path is None or not Path(path).is_file():
        return {}
    return {"initial_weights": hashlib.sha256(Path(path).read_bytes()).hexdigest()}


def collect(out: Path, results: Path, run: dict[str, Any]) -> list[dict[str, Any]]:
    """Bring the server's results into the run folder.

    Args:
        out: the run folder.
        results: where the server left them.
        run: the content of ``run.json``; what is now known is filled in.

    Returns:
        The sites' own rows of final metrics.
    """
    for name in (*_TABLES, *_MODELS):
        shutil.copyfile(results / name, out / name)
    copy_federation_table(results, out)
    for name in (keys.TENSORBOARD, keys.MLRUNS):
        if (results / name).is_dir():
            shutil.copytree(results / name, out / name, dirs_exist_ok=True)
    summary = json.loads((results / keys.SUMMARY).read_text(encoding="utf-8"))
    run["best_round"] = summary["best_round"]
    run["fingerprints"] |= summary["fingerprints"]
    rows: list[dict[str, Any]] = json.loads((results / keys.SITE_METRICS).read_text(encoding="utf-8"))["rows"]
    return rows


def copy_federation_table(results: Path, out: Path) -> list[Path]:
    """Copy ``federation.csv``; a server of an earlier version has not written any.

    Returns:
        Its path in ``out``, if it is there.
    """
    if not (results / keys.FEDERATION_CSV).is_file():
        return []
    shutil.copyfile(results / keys.FEDERATION_CSV, out / keys.FEDERATION_CSV)
    return [out / keys.FEDERATION_CSV]


def note_run(out: Path, run: dict[str, Any], **known: Any) -> None:
    """Write what is now known of a run into its ``run.json``."""
    run |= known
    write_json(out / RUN_JSON, run)


def note_event(out: Path, run: dict[str, Any], event: Mapping[str, Any]) -> None:
    """Write into ``run.json`` what an event tells of the job: its number, its sites, when it was submitted."""
    if event["event"] == "submitted":
        note_run(out, run, job_id=event["job_id"], sites=event["sites"])
    elif event["event"] == "restart":
        note_run(out, run, resumed=int(run["resumed"]) + 1)
    elif event["event"] == "status":
        # A job that is fetched later began before the command that fetches it.
        note_run(out, run, job_id=event["job_id"], started=min(str(run["started"]), str(event["submitted"])))


def end_run(out: Path, run: dict[str, Any], outcome: str) -> None:
    """Write how a run ended into its ``run.json``."""
    note_run(out, run, ended=_now(), outcome=outcome)


def read_run(folder: Path) -> dict[str, Any]:
    """The ``run.json`` of a run folder.

    Raises:
        UserError: if there is none, or a newer package wrote it.
    """
    path = folder / RUN_JSON
    try:
        run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{folder}: no {RUN_JSON}, so not a run. Give the --out of 'nc-medfl run'.") from error
    except ValueError as error:
        raise UserError(f"{path}: damaged. Run the job again.") from error
    if run.get("schema_version", 0) > SCHEMA_VERSION:
        raise UserError(f"{path}: written by a newer nc_medfl. Upgrade this one.")
    return run


def write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as CSV, with the first row's keys as columns."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
