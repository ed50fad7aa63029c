"""Finding a site's own settings, and checking sites before a federation starts.

Looked for in this order: the file named by ``NC_MEDFL_SITE_CONFIG``; ``local/site.yaml`` in the site's
FLARE workspace; in the simulator and POC, the folder named by ``NC_MEDFL_SITES_DIR``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from nc_medfl.config import SiteConfig, load_site_config
from nc_medfl.data.manifest import LABEL
from nc_medfl.data.store import Store, open_store
from nc_medfl.errors import UserError
from nc_medfl.evaluation.groups import ATTRIBUTES
from nc_medfl.federation import keys
from nc_medfl.labels import Vocabulary


def site_files(folder: str | Path) -> dict[str, Path]:
    """Site settings in a folder: ``<site>/site.yaml`` or ``<site>.yaml``, by site name, sorted.

    Raises:
        UserError: if the folder is missing, holds none, or two files name the same site.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder. Give --sites a folder with <site>/site.yaml for each site, "
            "as 'nc-medfl partition' writes it."
        )
    beside = [path for path in folder.glob("*.yaml") if not path.name.endswith(".example.yaml")]
    candidates = sorted([*folder.glob("*/site.yaml"), *beside])
    found: dict[str, Path] = {}
    for path in candidates:
        name = load_site_config(path).name
        if name in found:
            raise UserError(f"{path}: site '{name}' is also described in {found[name]}. Keep one of them.")
        found[name] = path
    if not found:
        raise UserError(
            f"{folder}: no site.yaml in it. Put <site>/site.yaml there, with 'name:' and 'store:' in it "
            "(see site_configs/site.example.yaml)."
        )
    return dict(sorted(found.items()))


def find_site_config(site: str, workspace: Path | None = None) -> SiteConfig:
    """The settings of the site that this process plays.

    Args:
        site: its name in the federation.
        workspace: root of its FLARE workspace.

    Raises:
        UserError: if there are none, or they are another site's.
    """
    if named := os.environ.get(keys.ENV_SITE_CONFIG):
        return _of(site, Path(named))
    local = workspace / "local" / "site.yaml" if workspace else None
    if local and local.is_file():
        return _of(site, local)
    if folder := os.environ.get(keys.ENV_SITES_DIR):
        files = site_files(folder)
        if site in files:
            return _of(site, files[site])
    raise UserError(
        f"site {site}: no settings found. Put site.yaml into the 'local' folder of its FLARE workspace, "
        f"or name the file in {keys.ENV_SITE_CONFIG}."
    )


def _of(site: str, path: Path) -> SiteConfig:
    config = load_site_config(path)
    if config.name != site:
        raise UserError(f"{path}: it describes site '{config.name}', but this is '{site}'. Mend 'name' there.")
    return config


def needed_for_training(column: str) -> bool:
    """Whether a site that trains and tests reads a column of its manifest.

    The others, hashes and the labels' source texts, are most of a manifest: of 1,000,000 images a gigabyte.
    """
    return column in ("patient_key", "split", "shard", "row", *ATTRIBUTES) or column.startswith(LABEL)


def open_site(
    config: SiteConfig,
    vocabulary: Vocabulary,
    image_size: int | None = None,
    wanted: Callable[[str], bool] | None = None,
) -> Store:
    """Open a site's store and check that it is labelled for the federation's findings.

    Args:
        config: the site's.
        vocabulary: the job's.
        image_size: side of what the job's network is to see, pixels, if the job says.
        wanted: which columns of the manifest to read; all if None.

    Raises:
        UserError: if the store is missing, labelled for other findings, or holds smaller images than the job wants.
    """
    store = open_store(config.store, wanted)
    if store.vocabulary.fingerprint != vocabulary.fingerprint:
        ours, theirs = set(store.vocabulary.findings), set(vocabulary.findings)
        difference = sorted(ours ^ theirs)
        detail = f"differing in {', '.join(difference[:5])}" if difference else "in another order"
        raise UserError(
            f"site {config.name}: its store is labelled for '{store.vocabulary.name}', the job for "
            f"'{vocabulary.name}' ({detail}). Prepare it with --vocabulary {vocabulary.name}, or set the job's."
        )
    stored = max(store.shape)
    if image_size is not None and image_size > stored:
        raise UserError(
            f"site {config.name}: image_size is {image_size}, its images are stored with {stored} pixels a side, and "
            f"enlarging shows no more. Set image_size to {stored} or less in the job (--set image_size={stored}), or "
            f"prepare its store anew with --size {image_size}."
        )
    if len(store.positions("train")) == 0:
        raise UserError(f"site {config.name}: no training images. Prepare its store with a train split.")
    return store


def check_sites(
    folder: str | Path, vocabulary: Vocabulary, image_size: int | None = None
) -> tuple[dict[str, Store], list[str]]:
    """Open every site in a folder and say what a federation of them will lack.

    Args:
        folder: as for :func:`site_files`.
        vocabulary: the job's.
        image_size: as for :func:`open_site`.

    Returns:
        Stores by site, and warnings: findings without a validation positive at a site.

    Raises:
        UserError: as :func:`open_site`, or if no site has a validation
            positive of anything, so that no round could be chosen.
    """
    stores = {}
    for name, path in site_files(folder).items():
        stores[name] = open_site(load_site_config(path), vocabulary, image_size)
    if len(stores) < 2:
        raise UserError(f"{folder}: {len(stores)} site in it; a federation needs two or more.")
    warnings: list[str] = []
    usable = False
    for name, store in stores.items():
        text, some = _validation_gaps(name, store)
        warnings.extend(text)
        usable = usable or some
    if not usable:
        raise UserError(
            f"{folder}: no site has a finding with both a positive and a negative in its validation split, so no "
            "round can be chosen. Prepare with a larger validation share (--fractions)."
        )
    return stores, warnings


def _validation_gaps(name: str, store: Store) -> tuple[list[str], bool]:
    labels = store.labels()[store.positions("val")]
    positives = (labels == 1).sum(axis=0)
    negatives = (labels == 0).sum(axis=0)
    findings = np.asarray(store.vocabulary.findings)
    lacking = findings[positives == 0]
    some = bool(np.any((positives > 0) & (negatives > 0)))
    if len(lacking) == len(findings):
        return [f"{name}: no validation positive at all; it takes no part in choosing the round."], some
    if len(lacking):
        shown = ", ".join(lacking)
        return [f"{name}: 0 validation positives for {shown}; AUC there is undefined and left out of the mean."], some
    return [], some


def label_statistics_rows(stores: Mapping[str, Store]) -> list[dict[str, object]]:
    """Counts of labels by site, split and finding (``No Finding`` last), as long-table rows."""
    from nc_medfl.labels import NO_FINDING

    rows: list[dict[str, object]] = []
    for site, store in stores.items():
        for split in ("train", "val", "test"):
            part = store.manifest.iloc[store.positions(split)]
            for finding in (*store.vocabulary.findings, NO_FINDING):
                values = part[f"label:{finding}"].to_numpy(dtype=float)
                rows.append(
                    {
                        "site": site,
                        "split": split,
                        "n_images": len(part),
                        "n_patients": int(part["patient_key"].nunique()),
                        "finding": finding,
                        "n_positive": int((values == 1).sum()),
                        "n_negative": int((values == 0).sum()),
                        "n_unknown": int(np.isnan(values).sum()),
                    }
                )
    return rows
