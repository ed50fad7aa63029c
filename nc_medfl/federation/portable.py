"""From a run to the portable model file that leaves it: weights, what they need, thresholds, reference, card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from nc_medfl import __version__
from nc_medfl.config import JobSettings, load_site_config
from nc_medfl.data.dicom.reader import READER_VERSION
from nc_medfl.data.store import Store, hash_of, write_atomic
from nc_medfl.data.transforms import Normalisation
from nc_medfl.errors import UserError
from nc_medfl.evaluation import read_metrics
from nc_medfl.evaluation.files import METRICS_CSV
from nc_medfl.evaluation.small_counts import WHOLE, telling_findings
from nc_medfl.evaluation.tables import MACRO, MICRO
from nc_medfl.federation import keys
from nc_medfl.federation.points import operating_points
from nc_medfl.federation.run_folder import LABEL_STATISTICS, RUN_JSON, read_run
from nc_medfl.federation.site import open_site, site_files
from nc_medfl.inference.card import card_of
from nc_medfl.inference.description import (
    SCHEMA_VERSION,
    ModelDescription,
    NetworkDescription,
    Preparation,
    Preprocessing,
    Reference,
    Result,
    SiteData,
)
from nc_medfl.inference.likeness import ReferenceBuilder
from nc_medfl.inference.model_file import CARD, MODEL_FOLDER, Network, build, load_weights, write_model
from nc_medfl.inference.pixels import to_input
from nc_medfl.inference.scoring import run_network
from nc_medfl.labels import load_vocabulary
from nc_medfl.training.model import load_model, network_spec

#: Counts of positives below this are not told.
FEWEST_TOLD = 5
_PUBLISHED_SIZE = 224
_BATCH = 64
#: Images of a split and site that a reference is made from, at most, evenly spaced.
_MOST_A_SITE = 2000
_METRICS = ("auc", "average_precision", "sensitivity", "specificity", "ppv", "npv", "f1", "ece")


def open_stores(sites: Path | None, settings: JobSettings) -> dict[str, Store]:
    """The stores of the sites in a folder; none where there is no folder.

    Raises:
        UserError: as :func:`~nc_medfl.federation.site.open_site`.
    """
    if sites is None:
        return {}
    vocabulary = load_vocabulary(settings.vocabulary)
    return {name: open_site(load_site_config(path), vocabulary) for name, path in site_files(sites).items()}


def package_model(
    source: Path, out: Path, *, sites: Path | None = None, size: int | None = None, run: Path | None = None
) -> ModelDescription:
    """Write the portable model of a run.

    Args:
        source: a run's folder, or one of its ``.pt`` files.
        out: the folder to be written; what an earlier one left there is replaced.
        sites: folder with the sites' settings, where their stores are on this machine: thresholds that the run
            lacks, calibration and the reference come from there.
        size: side of the stored images, where neither run nor stores tell it.
        run: folder with the run's tables, if ``source`` lies elsewhere.

    Returns:
        What ``model.json`` says.

    Raises:
        UserError: if it is no run or model, or the stored size is unknown, or stores were prepared otherwise.
    """
    checkpoint = source / keys.BEST_MODEL if source.is_dir() else source
    home = run or checkpoint.parent
    network, settings, content = load_model(checkpoint)
    settings = settings.for_sites()
    record = read_run(home) if (home / RUN_JSON).is_file() else {}
    stores = open_stores(sites, settings)
    preparation = _preparation(settings, record, stores, size, checkpoint)
    description = ModelDescription(
        schema_version=SCHEMA_VERSION,
        package_version=__version__,
        name=settings.name,
        method=settings.method,
        vocabulary=settings.vocabulary if isinstance(settings.vocabulary, str) else "own",
        findings=load_vocabulary(settings.vocabulary).findings,
        network=_network(settings),
        preparation=preparation,
        preprocessing=_preprocessing(settings, preparation.size),
        fingerprints={str(k): str(v) for k, v in content["fingerprints"].items()},
        weights_sha256="",
        training=_training(settings, record, content),
        data=_data(home),
        results=_results(home),
        source_sha256=hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
    )
    weights = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    plain = build(description.network)
    load_weights(plain, weights, str(checkpoint))
    plain.eval()
    reference, tensors = _reference(plain, description, stores)
    points = operating_points(home, settings, _validation(plain, description, stores))
    description = description.model_copy(update={"reference": reference, "operating_points": points})
    written = write_model(out, description, weights, tensors)
    write_atomic(out / CARD, card_of(written).encode())
    return written


def package_run(run: Path, sites: Path | None) -> Path | None:
    """Write a finished run's ``model/``; None, with nothing written, where the stored size of its images is unknown."""
    try:
        package_model(run, run / MODEL_FOLDER, sites=sites)
    except UnknownSize:
        return None
    return run / MODEL_FOLDER


class UnknownSize(UserError):
    """Nothing at hand tells how large the stored images are."""


def _network(settings: JobSettings) -> NetworkDescription:
    if settings.method == "fedbn":
        raise UserError(
            "fedbn has no single model: each site's batch normalisation stays on its own disk. "
            "Make the model file from a run of another method."
        )
    spec = network_spec(settings)
    args = {name: value for name, value in spec["args"].items() if name in NetworkDescription.model_fields}
    return NetworkDescription(kind=spec["class_path"].rpartition(".")[2], **args)


def _preparation(
    settings: JobSettings, record: Mapping[str, Any], stores: Mapping[str, Store], size: int | None, where: Path
) -> Preparation:
    findings = load_vocabulary(settings.vocabulary).fingerprint
    found = {str(store.info["settings_hash"]): store.info for store in stores.values()}
    if len(found) > 1 and not settings.aggregation.allow_other_preparation:
        raise UserError(f"{where}: the sites' stores were prepared in {len(found)} ways. Prepare them alike.")
    for digest, info in found.items():
        known = info["settings"]
        return Preparation(
            reader=int(known.get("reader", READER_VERSION)),
            size=int(info["size"]),
            jpeg2000_reduce=int(known.get("jpeg2000_reduce", 0)),
            settings_hash=digest,
        )
    wanted = {str(v) for k, v in record.get("fingerprints", {}).items() if k.startswith("preparation")}
    # A hash can't be read backwards, but there are few sizes.
    for side in [size] if size else range(16, 2049) if wanted else []:
        made = {"reader": READER_VERSION, "size": side, "jpeg2000_reduce": 0}
        digest = hash_of({"vocabulary": findings, **made})
        if size or digest in wanted:
            return Preparation(**made, settings_hash=digest)
    raise UnknownSize(f"{where}: nothing tells the size of its stored images. Add --sites DIR, or --size PIXELS.")


def _preprocessing(settings: JobSettings, stored: int) -> Preprocessing:
    normalisation = Normalisation.named(settings.training.normalisation, settings.network.in_channels)
    return Preprocessing(
        image_size=settings.image_size or min(_PUBLISHED_SIZE, stored), mean=normalisation.mean, std=normalisation.std
    )


def _training(settings: JobSettings, record: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "settings": json.loads(settings.model_dump_json(exclude={"model"})),
        "rounds_trained": int(content.get("round", 0)),
        "sites": list(record.get("sites", [])),
        "versions": dict(record.get("versions", {})),
        "ended": record.get("ended"),
    }


def _data(run: Path) -> tuple[SiteData, ...]:
    """What the sites trained on, from the run's label statistics; counts below :data:`FEWEST_TOLD` are left out."""
    path = run / LABEL_STATISTICS
    if not path.is_file():
        return ()
    table = pd.read_csv(path, keep_default_na=False)
    out = []
    for (site, split), part in table.groupby(["site", "split"], sort=True):
        positives = {str(f): _told(n) for f, n in zip(part["finding"], part["n_positive"], strict=True)}
        first = part.iloc[0]
        out.append(
            SiteData(
                site=str(site),
                split=str(split),
                n_images=_told(first["n_images"]),
                n_patients=_told(first["n_patients"]),
                positives=positives,
            )
        )
    return tuple(out)


def _told(count: Any) -> int | None:
    try:
        number = int(count)
    except (TypeError, ValueError):
        return None  # withheld by its site
    return number if number == 0 or number >= FEWEST_TOLD else None


def _results(run: Path) -> tuple[Result, ...]:
    if not (run / METRICS_CSV).is_file():
        return ()
    table = read_metrics(run)
    rows = table[(table["group"] == "all") & table["metric"].isin(_METRICS) & (table["split"] == "test")]
    hidden = _untold(rows)
    return tuple(
        Result(
            site=row["site"],
            finding=row["finding"],
            metric=row["metric"],
            value=_number(row["value"]),
            low=_number(row["low"]),
            high=_number(row["high"]),
            n_positive=None if (row["site"], row["finding"]) in hidden else _told(row["n_positive"]),
            n_annotated=int(row["n_annotated"]),
            reason=row["reason"],
        )
        for row in rows.to_dict("records")
    )


def _untold(rows: pd.DataFrame) -> set[tuple[str, str]]:
    """Sums of positives, over sites or findings, from which one that is not told could be worked out."""
    telling = telling_findings(rows, FEWEST_TOLD)
    out = {(site, finding) for site in WHOLE for finding in telling}
    single = rows[(rows["metric"] == "auc") & ~rows["finding"].isin([MACRO, MICRO])]
    counts = zip(single["site"], single["finding"], single["n_positive"], strict=True)
    sites = {site for site, finding, n in counts if _told(n) is None or (site, finding) in out}
    return out | {(site, name) for site in sites for name in (MACRO, MICRO)}


def _number(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


_Squares = npt.NDArray[np.uint8]


def _rows(store: Store, split: str) -> npt.NDArray[np.int64]:
    rows = store.positions(split)
    if len(rows) <= _MOST_A_SITE:
        return rows
    chosen: npt.NDArray[np.int64] = rows[np.linspace(0, len(rows) - 1, _MOST_A_SITE).astype(np.int64)]
    return chosen


def _walk(
    network: Network, description: ModelDescription, stores: Sequence[Store], split: str
) -> Iterator[tuple[_Squares, Tensor]]:
    for store in stores:
        rows = _rows(store, split)
        for start in range(0, len(rows), _BATCH):
            squares = store.images(rows[start : start + _BATCH])
            yield squares, run_network(network, to_input(squares, description))[1]


def _reference(
    network: Network, description: ModelDescription, stores: Mapping[str, Store]
) -> tuple[Reference | None, dict[str, Tensor]]:
    """What the training images are like, over all sites; None where their stores are elsewhere or hold too few."""
    given = [store for store in stores.values() if store.size == description.preparation.size]
    builder = ReferenceBuilder()
    try:
        builder.fit(_walk(network, description, given, "train"))
        both = (_walk(network, description, given, split) for split in ("train", "val"))
        return builder.measure(chain.from_iterable(both)), builder.tensors
    except UserError:
        return None, {}


def _validation(
    network: Network, description: ModelDescription, stores: Mapping[str, Store]
) -> dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    """Scores and labels of each site's validation split."""
    out = {}
    n = len(description.findings)
    for name, store in stores.items():
        rows = store.positions("val")
        parts = [
            run_network(network, to_input(store.images(rows[start : start + _BATCH]), description))[0]
            for start in range(0, len(rows), _BATCH)
        ]
        scores = np.concatenate(parts) if parts else np.empty((0, n))
        out[name] = (scores, store.labels()[rows].astype(np.float64))
    return out
