"""What a site does in a federation, without a word of FLARE: train, validate, evaluate."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from nc_medfl import __version__
from nc_medfl.config import JobSettings, SiteConfig
from nc_medfl.data.dataset import StoreBatches, epoch_batches, make_loader
from nc_medfl.data.store import Store
from nc_medfl.data.transforms import AugmentationSettings
from nc_medfl.evaluation.groups import ATTRIBUTES
from nc_medfl.evaluation.patients import ScoredSplit
from nc_medfl.evaluation.site import predict
from nc_medfl.federation.accounting import DP_SGD, Release
from nc_medfl.federation.best_model import BestModel
from nc_medfl.federation.class_statistics import SiteStatistics
from nc_medfl.federation.final_test import FinalTest, final_test, say_withheld, too_rare, without
from nc_medfl.federation.privacy import Guard, entropy, first_images
from nc_medfl.federation.site import needed_for_training, open_site
from nc_medfl.federation.site_state import SiteState
from nc_medfl.labels import load_vocabulary
from nc_medfl.metrics.classification import measure as measure_sample
from nc_medfl.metrics.classification import prepare_sample, reasons
from nc_medfl.metrics.collapse import class_statistics
from nc_medfl.training import parallel
from nc_medfl.training.device import pick_device
from nc_medfl.training.methods import LocalMemory, get_method, split_extras
from nc_medfl.training.model import build_network, fingerprints
from nc_medfl.training.precision import try_out
from nc_medfl.training.schedule import in_round
from nc_medfl.training.trainer import TrainingResult, train_round

_log = logging.getLogger(__name__)

Rows = list[dict[str, Any]]

#: A sum of features over fewer patients than this is, or nearly is, the feature of one of them.
_FEWEST_PATIENTS = 2

#: Side in pixels of the published experiments' images.
_PUBLISHED_SIZE = 224


@dataclass(frozen=True)
class GlobalModelCheck:
    """What a site finds out about a global model before it trains it.

    Attributes:
        rows: its metrics on the validation split here.
        statistics: sums of its class features over the training split here; all NaN where it sends none.
    """

    rows: Rows
    statistics: SiteStatistics


@dataclass(frozen=True)
class LocalUpdate:
    """A site's answer to a round.

    Attributes:
        params: parameters and buffers after local training, on the CPU.
        losses: means of the last local epoch.
        n_samples: training images.
        before: the check of the global model that the round started from.
        extras: tensors of the method's that go to the server beside the model.
    """

    params: dict[str, Tensor]
    losses: dict[str, float]
    n_samples: int
    before: GlobalModelCheck
    extras: Mapping[str, Tensor] = field(default_factory=dict)


class SiteWorker:
    """One site: its store open, its network built, ready for the server's tasks.

    Args:
        settings: the job's.
        config: the site's own.
        state: where the site keeps its optimiser, and what else the method keeps, between rounds; None where it
            keeps nothing.
        run_id: of the federation, for the account of what privacy was spent.
        store: its images, where they are open already; None opens the store that its settings name.

    Raises:
        UserError: if the store is missing, empty or labelled for other findings.
    """

    def __init__(
        self,
        settings: JobSettings,
        config: SiteConfig,
        state: SiteState | None = None,
        run_id: str = "",
        store: Store | None = None,
    ) -> None:
        self.settings = settings
        self.state = state
        self.config = config
        self.vocabulary = load_vocabulary(settings.vocabulary)
        if store is None:
            store = open_site(config, self.vocabulary, settings.image_size, needed_for_training)
        self.store: Store = store
        if config.threads:
            torch.set_num_threads(config.threads)
        self._device = pick_device(config.device)
        self.network = build_network(settings).to(self._device)
        self._personal = get_method(settings.method).personal(self.network)
        self.fingerprints = {
            **fingerprints(self.network, self.vocabulary),
            "preparation": str(self.store.info["settings_hash"]),
            "package": __version__,
        }
        codes = pd.factorize(self.store.manifest["patient_key"])[0]
        self._patients = np.asarray(codes, dtype=np.int64)
        # Sites draw from streams of their own, the same on every machine.
        digest = hashlib.sha256(f"{settings.seed}/{config.name}".encode()).digest()
        self._seed = int.from_bytes(digest[:4], "big")
        self._run_id = run_id
        self.guard = Guard(config.privacy, self.store.folder, run_id, entropy(), counts=parallel.rank() == 0)

    def train(self, params: Mapping[str, Tensor], round_number: int, *, score: bool = True) -> LocalUpdate:
        """Score the global model on the validation split, then train it here for one round.

        Args:
            params: the global model's parameters and buffers, and what the method sends beside them.
            round_number: 0 for the first.
            score: False leaves scores and sums of features out and counts labels alone, which takes no time.
        """
        model, received = split_extras(params)
        if score:
            before = self.validate(model, round_number)
        else:
            self.load(model, round_number)
            before = GlobalModelCheck([], self._statistics(features=False))
        private = self.config.privacy.dp_sgd
        result = self._train_privately(round_number) if private else self._train_plainly(round_number, received)
        trained = {name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()}
        if self.config.keep_best_model and parallel.rank() == 0:
            best = BestModel(self.store.folder, self.settings, self._run_id)
            prints = fingerprints(self.network, self.vocabulary)  # of the model alone, as a reader works them out
            best.offer(_macro(self._validation_rows()), trained, round_number, prints)
        # A loss tells of the patients as the model does, and has no noise on it.
        losses = {} if self.config.privacy.protects_model else result.losses
        sent = self.guard.update(
            {name: model[name] if name in self._personal else trained[name] for name in trained}, model
        )
        return LocalUpdate(sent, losses, result.n_samples, before, result.memory.received)

    def _train_plainly(self, round_number: int, received: Mapping[str, Tensor]) -> TrainingResult:
        kept = self.state.load_memory(round_number) if self.state else {}
        self._settle_precision()
        result = train_round(
            self.network,
            lambda epoch: self._batches("train", training=True, epoch=epoch),
            self.settings,
            round_number=round_number,
            seed=self._seed,
            optimizer_state=self.state.load_optimizer(round_number) if self.state else None,
            memory=LocalMemory(received, kept, self.config.privacy.min_positives),
            absent=torch.as_tensor((self.store.labels()[self.store.positions("train")] == 1).sum(axis=0) == 0),
        )
        if self.state and parallel.rank() == 0:
            _keep(self.state, round_number, result)
        return result

    def _settle_precision(self) -> None:
        """Replace ``training.precision: auto`` by what this site has trained in, or else by what is faster here."""
        training = self.settings.training
        if training.precision == "auto":
            kept = parallel.agreed(self.state.load_precision() if self.state else None)
            chosen = kept or parallel.agreed(self._try_precision())
            self.settings = self.settings.model_copy(
                update={"training": training.model_copy(update={"precision": chosen})}
            )
        self.fingerprints["precision"] = self.settings.training.precision

    def _try_precision(self) -> str:
        batch_size = self.config.batch_size or self.settings.training.batch_size
        size = network_size(self.settings, self.store)
        trial = try_out(self.network, (batch_size, self.settings.network.in_channels, *size))
        _log.info("%s", trial)
        if self.state and parallel.rank() == 0:
            self.state.save_precision(trial.chosen)
        return trial.chosen

    def _train_privately(self, round_number: int) -> TrainingResult:
        from nc_medfl.training.private import draw_patients, plan_sampling, train_privately

        wanted = self.config.privacy.dp_sgd
        assert wanted is not None
        rows = self.store.positions("train")
        patients = self._patients[rows]
        n_patients = len(np.unique(patients))
        batch_size = self.config.batch_size or self.settings.training.batch_size
        sampling = plan_sampling(n_patients, batch_size, self.settings.training.local_epochs)
        self.guard.spend(Release(DP_SGD, wanted.multiplier, sampling.rate, sampling.steps))
        result = train_privately(
            self.network,
            lambda pieces: self._batches("train", training=True, rows=pieces),
            in_round(self.settings, round_number),
            wanted,
            steps=draw_patients(rows, patients, sampling, self.guard.generator),
            expected=sampling.rate * n_patients,
        )
        # Who was drawn is nobody's business; the weight of the site is its number of images.
        return TrainingResult(result.losses, len(rows))

    def validate(self, params: Mapping[str, Tensor], round_number: int | None = None) -> GlobalModelCheck:
        """Score a model on the validation split and sum up its features over the training split."""
        self.load(params, round_number)
        return GlobalModelCheck(self._validation_rows(), self._statistics())

    def evaluate(self, params: Mapping[str, Tensor]) -> Rows:
        """The rows of :meth:`test` alone."""
        return self.test(params).rows

    def test(self, params: Mapping[str, Tensor]) -> FinalTest:
        """Score a model on the test split, with thresholds chosen on the validation split.

        Args:
            params: the chosen global model.
        """
        self.load(params)
        manifest = self.store.manifest.iloc[self.store.positions("test")]
        attributes = {name: manifest[name].to_numpy(dtype=object) for name in ATTRIBUTES if name in manifest}
        parts = self.predictions("val"), self.predictions("test")
        return final_test(*parts, attributes, self.settings, self.config)

    def predictions(self, split: str) -> ScoredSplit:
        """Scores and labels of a split, with the network as it is now."""
        patients = self._patients[self.store.positions(split)]
        return predict(self.network, self._batches(split, training=False), patients, len(self.vocabulary))

    def load(self, params: Mapping[str, Tensor], round_number: int | None = None) -> None:
        """Put a global model into this site's network, with the site's own layers where the method has any.

        Args:
            params: its parameters and buffers.
            round_number: with the layers that this round starts with; None takes the newest.
        """
        self.network.load_state_dict({**{n: torch.as_tensor(v) for n, v in params.items()}, **self.own(round_number)})

    def own(self, round_number: int | None = None) -> dict[str, Tensor]:
        """The layers that stay at this site, as :meth:`load` takes them; none before its first round."""
        if not self._personal or self.state is None:
            return {}
        return self.state.load_memory(self.settings.rounds if round_number is None else round_number)

    def _batches(
        self,
        split: str,
        *,
        training: bool,
        epoch: int = 0,
        rows: Sequence[npt.NDArray[np.int64]] | None = None,
    ) -> StoreBatches:
        training_settings = self.settings.training
        return make_loader(
            self.store,
            split,
            batch_size=self.config.batch_size or training_settings.batch_size,
            training=training,
            size=network_size(self.settings, self.store),
            normalisation=training_settings.normalisation,
            channels=self.settings.network.in_channels,
            augmentation=AugmentationSettings() if training_settings.augment else None,
            seed=self._seed,
            epoch=epoch,
            device=self._device,
            rows=rows,
        )

    def _validation_rows(self) -> Rows:
        """AUC of each finding, of all pairs together, and the mean over findings where it is defined."""
        found = self.predictions("val")
        hidden = too_rare(found.labels, self.config.privacy)
        found = without(found, hidden)
        sample = prepare_sample(found.scores, found.labels)
        values = measure_sample(sample)
        names = [*self.vocabulary.findings, "macro", "micro"]
        # Macro and micro tell of all pairs together.
        counts = [(int(p), int(n)) for p, n in zip(sample.n_positive, sample.n_annotated, strict=True)]
        counts.insert(-1, counts[-1])
        columns = zip(names, values["auc"][0].tolist(), counts, reasons(sample, values)["auc"], strict=True)
        rare = {name for name, few in zip(self.vocabulary.findings, hidden, strict=True) if few}
        return say_withheld([_auc_row(*column) for column in columns], rare)

    @torch.inference_mode()
    def _statistics(self, *, features: bool = True) -> SiteStatistics:
        """Counts from the labels; sums of the loaded model's features over the training split, if it has any.

        All NaN where the site or the job wants none. A class with fewer positives than the site's
        ``privacy.min_positives`` is withheld, and, where no noise hides it, any sum of a single patient's images.
        """
        privacy = self.config.privacy
        if not privacy.allow_class_statistics or self.settings.release.class_statistics == "none":
            return SiteStatistics(np.full((2, len(self.vocabulary)), np.nan))
        rows = self.store.positions("train")
        n_images = len(rows)
        if privacy.statistics_noise:
            rows = first_images(rows, self._patients[rows], privacy.statistics_noise.images_per_patient)
        labels = self.store.labels()[rows]
        of_kind = np.stack([labels == 1, labels == 0])
        counts = of_kind.sum(axis=1).astype(np.float64)
        if not (features and get_method(self.settings.method).has_class_features):
            return self.guard.statistics(SiteStatistics(counts), n_images)
        sums = self._feature_sums(rows)
        if not privacy.statistics_noise:
            sums[_of_one_patient(of_kind, self._patients[rows])] = np.nan
        return self.guard.statistics(SiteStatistics(counts, sums), n_images)

    def _feature_sums(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        self.network.eval()
        total: Any = None
        size = self.config.batch_size or self.settings.training.batch_size
        pieces = epoch_batches(rows, size, shuffle=False, seed=0, epoch=0)
        for batch in self._batches("train", training=False, rows=pieces):
            features = self.network(batch["image"]).class_features
            part = class_statistics(features, batch["label"]).cpu()
            total = part if total is None else total + part
        sums: npt.NDArray[np.float64] = total.sums.numpy().copy()
        return sums


def network_size(settings: JobSettings, store: Store) -> tuple[int, int]:
    """What the network reads, its longer side being what the job asks for, or the stored one up to the published."""
    longer = max(store.shape)
    side = settings.image_size or min(_PUBLISHED_SIZE, longer)
    height, width = (round(length * side / longer) for length in store.shape)
    return height, width


def _macro(rows: Rows) -> float | None:
    """The macro AUC among validation rows."""
    (value,) = [row["value"] for row in rows if (row["finding"], row["metric"]) == ("macro", "auc")]
    return None if value is None else float(value)


def _keep(state: SiteState, round_number: int, result: TrainingResult) -> None:
    """Put what the next round needs on the site's disk."""
    if result.optimizer is not None:
        state.save_optimizer(round_number, result.optimizer)
    if result.memory.kept:
        state.save_memory(round_number, result.memory.kept)


def _of_one_patient(chosen: npt.NDArray[np.bool_], patients: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Where a choice of images ``[..., N, C]`` comes from some patient, but from fewer than it takes to tell."""
    order = np.argsort(patients, kind="stable")
    starts = np.flatnonzero(np.diff(patients[order], prepend=-1))
    n_patients = np.logical_or.reduceat(np.take(chosen, order, axis=-2), starts, axis=-2).sum(axis=-2)
    few: npt.NDArray[np.bool_] = (n_patients > 0) & (n_patients < _FEWEST_PATIENTS)
    return few


def _auc_row(finding: str, value: float, counts: tuple[int, int], reason: str) -> dict[str, Any]:
    return {
        "split": "val",
        "finding": finding,
        "metric": "auc",
        "value": None if np.isnan(value) else value,
        "n_positive": counts[0],
        "n_annotated": counts[1],
        "reason": reason,
    }
