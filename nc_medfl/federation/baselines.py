"""What a federation is compared with: each site's own model, and one model of all sites' images in one place.

Both are trained on this machine as the federation was, with its method, settings, rounds and choice on validation, and
never leave it. So the first needs a site's store, the second those of all.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from nc_medfl.config import JobSettings, PrivacySettings, SiteConfig, load_site_config
from nc_medfl.data.store import Store, hash_of
from nc_medfl.errors import UserError
from nc_medfl.evaluation import predictions as table
from nc_medfl.evaluation.decide import SiteScores
from nc_medfl.federation.local import LocalFederation
from nc_medfl.federation.measure import predict_everywhere
from nc_medfl.federation.site import open_site, site_files
from nc_medfl.labels import load_vocabulary
from nc_medfl.training.model import fingerprints, load_model, save_model

LOCAL, POOLED = "local", "pooled"
KINDS = (LOCAL, POOLED)
#: How a comparison names them.
NAMES = {LOCAL: "the site's own model", POOLED: "a model of all images in one place"}

#: Called with rounds done and rounds in all.
Progress = Callable[[int, int], None]


def score_baseline(kind: str, model: Path, sites: Path, keep: Path, on_progress: Progress) -> table.Predictions:
    """Train what a model is to be compared with, unless that was done before, and score every site's images with it.

    Args:
        kind: ``local`` scores each site's images with the model of that site alone; ``pooled`` scores all with one.
        model: the federation's model file, which says how it was trained.
        sites: folder with the sites' settings.
        keep: folder for the models; they are trained again where settings or images have changed.
        on_progress: told of rounds of training.

    Raises:
        UserError: for a bad model file, site folder or store, or stores that can't be put together.
    """
    settings = load_model(model)[1]
    files = site_files(sites)
    stores = {name: open_site(_private(path), load_vocabulary(settings.vocabulary)) for name, path in files.items()}
    pools = {POOLED: together(stores)} if kind == POOLED else stores
    configs = {name: _private(path) for name, path in files.items()}
    keep.mkdir(parents=True, exist_ok=True)
    trained: dict[str, Path] = {}
    for done, (name, store) in enumerate(pools.items()):

        def tell(rounds: int, before: int = done) -> None:
            on_progress(before * settings.rounds + rounds, len(pools) * settings.rounds)

        config = configs.get(name) or next(iter(configs.values())).model_copy(update={"name": POOLED})
        trained[name] = _trained(settings, config, store, keep / f"{kind}-{name}.pt", tell)
    scores: dict[str, SiteScores] = {}
    for name in files:
        path = trained.get(name) or trained[POOLED]
        scores |= predict_everywhere(path, sites, only=name)[0]
    return table.from_sites(scores, load_vocabulary(settings.vocabulary).findings)


def _private(path: Path) -> SiteConfig:
    """A site's settings for training that nothing leaves: its rules for what may leave don't apply."""
    plain = {"privacy": PrivacySettings(), "trainer": "inline", "devices": ()}
    return load_site_config(path).model_copy(update=plain)


def together(stores: Mapping[str, Store]) -> Store:
    """The images of several sites as one store, without copying any.

    Equal patient keys at two sites are two patients.

    Raises:
        UserError: if the sites store images of different sizes.
    """
    shapes = {(*store.shape, store.channels): name for name, store in stores.items()}
    if len(shapes) > 1:
        one, other = list(shapes.values())[:2]
        raise UserError(
            f"pooled: sites {one} and {other} store images of different sizes, which can't be put together. "
            "Prepare both with the same --size."
        )
    frames: list[pd.DataFrame] = []
    shards: dict[int, npt.NDArray[np.uint8]] = {}
    for at, (name, store) in enumerate(stores.items()):
        offset = len(shards)
        numbers = sorted(int(number) for number in np.unique(store.manifest["shard"].to_numpy()))
        place = {number: offset + k for k, number in enumerate(numbers)}
        shards |= {place[number]: store.shard(number) for number in numbers}
        keys = [f"{at}/{key}" for key in store.manifest["patient_key"]]
        frames.append(store.manifest.assign(shard=store.manifest["shard"].map(place), patient_key=keys, site=name))
    first = next(iter(stores.values()))
    manifest: pd.DataFrame = pd.concat(frames, ignore_index=True)
    return Store(first.folder, manifest, first.vocabulary, first.info, shards)


def _trained(settings: JobSettings, config: SiteConfig, store: Store, path: Path, tell: Callable[[int], None]) -> Path:
    """The model file of a store alone; as it is where it was made of the same settings and images."""
    mark = path.with_suffix(".txt")
    given = _print_of(settings, store)
    if path.is_file() and mark.is_file() and mark.read_text(encoding="utf-8") == given:
        tell(settings.rounds)
        return path
    mark.unlink(missing_ok=True)
    # What it is worth is measured with the others; here it is only trained and chosen.
    unmeasured = settings.evaluation.model_copy(update={"resamples": 0, "groups": ()})
    quiet = settings.model_copy(update={"evaluation": unmeasured})
    with tempfile.TemporaryDirectory(prefix="nc-medfl-baseline-") as state:
        federation = LocalFederation(quiet, {config.name: config}, Path(state), {config.name: store})
        found = federation.run(on_round=tell, or_last=True)
        network = federation.workers[config.name].network
    prints = fingerprints(network, load_vocabulary(settings.vocabulary))
    save_model(path, found.model, settings, rounds=found.round, prints=prints)
    mark.write_text(given, encoding="utf-8")
    return path


def _print_of(settings: JobSettings, store: Store) -> str:
    """What decides a model: the settings, and which images with which labels in which split."""
    columns = [name for name in store.manifest if name in ("split", "pixel_sha256") or str(name).startswith("label:")]
    rows = pd.util.hash_pandas_object(store.manifest[columns], index=False).to_numpy()
    own = settings.model_dump(mode="json", exclude={"evaluation", "federation", "tracking", "transfer", "name"})
    return hash_of({"settings": own, "images": hashlib.sha256(rows.tobytes()).hexdigest()})
