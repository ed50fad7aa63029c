"""What a job sets, the same at every site: network, loss, training, averaging, evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from nc_medfl.config.vocabulary import OwnVocabulary
from nc_medfl.errors import UserError
from nc_medfl.names import BackboneName, MethodName
from nc_medfl.presets import merged, with_presets
from nc_medfl.settings import Settings

Beta = Annotated[float, Field(ge=0, lt=1)]
JobName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class NetworkSettings(Settings):
    """The network; see ``FedNCANet`` and ``PooledNet``.

    Attributes:
        backbone: one of ``nc_medfl.names.BACKBONES``, or of a plug-in.
        init_weights: file on the *server's* disk with weights trained elsewhere; read once, when the
            federation starts.
    """

    backbone: BackboneName = "resnet18"
    norm: Literal["batch", "group"] = "batch"
    in_channels: Literal[1, 3] = 1
    feature_dim: int | None = Field(default=None, ge=1)
    num_heads: int = Field(default=4, ge=1)
    queries: Literal["fixed", "learned", "from_frame", "mlp"] = "fixed"
    query_length: Literal["unit", "sqrt_dim"] = "unit"
    position_code: bool = False
    normalise_features: bool = False
    frame_seed: int | None = Field(default=None, ge=0)
    learned_frame: bool = False
    init_scale: float = Field(default=10.0, gt=0)
    head: Literal["linear", "mlp"] = "linear"
    init_weights: str | None = None


class LossSettings(Settings):
    """Weights and constants of the loss (METHOD section 4)."""

    lambda_rejection: float = Field(default=0.01, ge=0)
    lambda_contrast: float = Field(default=1.0, ge=0)
    margin: float = Field(default=0.3, ge=0, le=1)
    temperature: float = Field(default=0.07, gt=0)
    negatives: Literal["topk", "all", "random"] = "topk"
    contrast: Literal["cross_entropy", "cosine"] = "cross_entropy"
    absent_from_global: float = Field(default=0.0, ge=0, le=1)


class FedProxSettings(Settings):
    """Of the method ``fedprox`` alone.

    Attributes:
        mu: how strongly local training is pulled towards the global model; 0 is FedAvg.
    """

    mu: float = Field(default=0.01, ge=0)


class MoonSettings(Settings):
    """Of the method ``moon`` alone.

    Attributes:
        mu: weight of the contrast between models; 0 is FedAvg.
        temperature: of the contrast.
    """

    mu: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=0.5, gt=0)


class FedNHSettings(Settings):
    """Of the method ``fednh`` alone.

    Attributes:
        rho: share of a prototype that stays from round to round.
    """

    rho: float = Field(default=0.9, ge=0, le=1)


class TrainingSettings(Settings):
    """Local training in one round (METHOD section 5).

    Attributes:
        precision: of the network's activations: ``float32``; ``mixed`` with bfloat16 (float16 on a GPU without it); or
            ``auto``, whichever a short trial at each site finds faster there. What was chosen stands in the run's
            ``updates.csv``; such a run can be repeated bit by bit only with that precision set.
        deterministic: on a GPU: algorithms that give the same bits every time. False lets cuDNN time its own for the
            image size and take the fastest.
        normalisation: ``imagenet`` subtracts ImageNet's statistics, ``unit`` leaves images in [0, 1];
            ``auto`` takes ``imagenet`` where ``network.init_weights`` is given.
        optimizer: ``adamw``, or ``sgd`` (plain, without momentum; ``betas`` and ``eps`` have no effect then).
        lr_schedule: ``constant``, or ``cosine``: the rate falls over the rounds to nearly nothing in the last one.
        warmup_rounds: over so many first rounds the rate rises to ``lr``.
        keep_optimizer: each site keeps the optimiser's moments on its own disk from one round to the next; else every
            round starts with fresh ones.
    """

    local_epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=32, ge=2)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=1e-4, gt=0)
    lr_schedule: Literal["constant", "cosine"] = "constant"
    warmup_rounds: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    eps: float = Field(default=1e-8, gt=0)
    clip_norm: float | None = Field(default=None, gt=0)
    precision: Literal["float32", "mixed", "auto"] = "float32"
    deterministic: bool = True
    augment: bool = True
    normalisation: Literal["auto", "unit", "imagenet"] = "auto"
    keep_optimizer: bool = False

    @model_validator(mode="before")
    @classmethod
    def _older_name(cls, given: Any) -> Any:
        return _renamed(given)


def _renamed(training: Any) -> Any:
    """Model files and run folders of earlier versions say amp: true or false."""
    if isinstance(training, Mapping) and isinstance(training.get("amp"), bool) and "precision" not in training:
        rest = {name: value for name, value in training.items() if name != "amp"}
        return {**rest, "precision": "mixed" if training["amp"] else "float32"}
    return training


class AggregationSettings(Settings):
    """How the server combines updates, and which it refuses (docs/reference/updates.md).

    Attributes:
        weighting: ``uniform`` counts every site the same, ``samples`` by training images,
            ``class_aware`` as ``samples`` for shared parameters and by positives of the class for
            parameters that belong to a class.
        min_positives: classes with fewer positives over the federation are left out of the collapse metrics.
        robust: ``none`` is the weighted mean. ``median`` and ``trimmed_mean`` go number by number with one vote a
            site; ``norm_clip`` is the weighted mean of updates cut to the median length.
        trim_fraction: of ``trimmed_mean``: the share of sites left out at either end.
        norm_policy: what becomes of an update that is more than ``max_norm_ratio`` times as long as the median:
            ``refuse``, ``clip`` (cut to that length) or ``off``.
        max_norm_ratio: see there. Honest sites differ too: one with many more images takes many more steps.
        max_samples: a site that claims more training images is refused.
        preparation: hash of the preparation settings that every site must have (``settings_hash`` in
            ``prepare.json``); None takes that of most sites in the first round.
        allow_other_preparation: take updates of sites that prepared their images otherwise.
        allow_other_version: take updates of sites with another version of this package.
        allow_changing_counts: take updates of a site whose counts differ from its earlier rounds.
        encryption: ``none``. ``he`` (homomorphic) is refused, with the reason.
        server_optimizer: ``none`` takes the average for the next model; ``momentum`` (FedAvgM) and ``adam`` (FedAdam)
            take its difference from the last one for a gradient.
        server_lr: of the server's optimiser.
        server_momentum: of the server's optimiser.
        server_adaptivity: of ``adam``: what is added to the root of the mean of squares.
        average_last: the last model that is tested and saved is the mean of the last so many global models.
    """

    weighting: Literal["uniform", "samples", "class_aware"] = "uniform"
    min_positives: int = Field(default=5, ge=1)
    robust: Literal["none", "median", "trimmed_mean", "norm_clip"] = "none"
    trim_fraction: float = Field(default=0.2, ge=0, lt=0.5)
    norm_policy: Literal["off", "refuse", "clip"] = "refuse"
    max_norm_ratio: float = Field(default=30.0, ge=1)
    max_samples: int = Field(default=500_000, ge=1)
    preparation: str | None = None
    allow_other_preparation: bool = False
    allow_other_version: bool = False
    allow_changing_counts: bool = False
    encryption: Literal["none", "he"] = "none"
    server_optimizer: Literal["none", "momentum", "adam"] = "none"
    server_lr: float = Field(default=1.0, gt=0)
    server_momentum: float = Field(default=0.9, ge=0, lt=1)
    server_adaptivity: float = Field(default=1e-3, gt=0)
    average_last: int = Field(default=1, ge=1, le=100)

    @field_validator("encryption")
    @classmethod
    def _not_encrypted(cls, value: str) -> str:
        if value == "he":
            raise ValueError(
                "homomorphic encryption is not run here: a server that sees ciphertexts alone can neither refuse an "
                "update, weigh it by class, average robustly, nor score and save the best round. Leave it at none; "
                "docs/explanation/privacy.md says what FLARE's own recipe does"
            )
        return value


class ReleaseSettings(Settings):
    """What the job asks of each site beside the model. A site that its own policy forbids it takes no part.

    Attributes:
        class_statistics: ``offered`` takes what a site gives; ``required`` needs counts and feature sums;
            ``none`` asks for none, and no site sends any.
        min_positives: asks for the statistics of every class with so many positives; None leaves it to each site.
    """

    class_statistics: Literal["offered", "required", "none"] = "offered"
    min_positives: int | None = Field(default=None, ge=0)


class FederationSettings(Settings):
    """How long the server waits for sites, and how many it needs.

    Attributes:
        min_sites: a round needs this many accepted updates; sites beyond that may be late, fail or be gone. None
            needs every site, and a site whose task fails ends the job.
        round_timeout: seconds until a round is closed, whoever has answered (None: no limit).
        grace: seconds to wait for the others once ``min_sites`` updates are in.
        retries: a round with fewer updates than ``min_sites`` is repeated so many times before the job ends.
        resume: go on from the last finished round of the newest job of this name that did not end.
        restarts: a job that fails (its server was killed, a client's job process died, too few sites answered) is
            submitted again so many times by the command that follows it, and goes on from its last finished round
            with the sites that are there. POC and production; the simulator has nobody to submit to.
    """

    min_sites: int | None = Field(default=None, ge=1)
    round_timeout: int | None = Field(default=None, ge=1)
    grace: int = Field(default=60, ge=0)
    retries: int = Field(default=2, ge=0)
    resume: bool = False
    restarts: int = Field(default=0, ge=0)


class EvaluationSettings(Settings):
    """How the final model is measured.

    Attributes:
        threshold: how each finding's threshold is chosen on the validation split: by ``youden``, ``f1``, for a
            target ``sensitivity`` or ``ppv``, or not at all (``fixed``; ``half`` is 0.5).
        target_sensitivity: share of positives that the rule ``sensitivity`` finds.
        target_ppv: share of its alarms that are right under the rule ``ppv``.
        fixed_threshold: of the rule ``fixed``.
        calibrate: scale a site's scores before they are measured, by a map fitted on its validation split:
            ``none``, ``temperature`` (one number a site) or ``platt`` (two a finding).
        groups: attributes that patients are grouped by, where they are known.
        min_group: groups of fewer patients are withheld.
        resamples: patients are resampled this often for the intervals (0: no intervals).
        interval: how the ends are read from the resamples.
    """

    threshold: Literal["youden", "f1", "half", "sensitivity", "ppv", "fixed"] = "youden"
    target_sensitivity: float = Field(default=0.9, gt=0, le=1)
    target_ppv: float = Field(default=0.5, gt=0, le=1)
    fixed_threshold: float = Field(default=0.5, ge=0, le=1)
    calibrate: Literal["none", "temperature", "platt"] = "none"
    groups: tuple[Literal["sex", "age", "view", "maker"], ...] = ("sex", "age", "view", "maker")
    min_group: int = Field(default=20, ge=1)
    resamples: int = Field(default=2000, ge=0)
    interval: Literal["percentile", "bca"] = "percentile"


class JobSettings(Settings):
    """Everything a job sets, with the published experiments' values as defaults (METHOD section 5).

    Attributes:
        name: of the run, in reports and folders.
        kind: ``train``, or a job without training: ``label_statistics`` (counts of labels at every site) or
            ``evaluate`` (``model`` tested at every site).
        method: one of ``nc_medfl.names.METHODS`` (``nc_medfl/training/methods`` has a file on each), or of a plug-in.
        paper_compat: exactly the published FedNCA-ML, whatever else is set for network, loss, averaging and thresholds;
            else what is not set is as this package has found best (``nc_medfl/presets.yaml``).
        vocabulary: the findings; every site must be prepared for the same. The name of one in the package, or a YAML
            file with ``name`` and ``findings``, whose content goes into the job: sites need no such file.
        rounds: of the federation.
        seed: of weights, shuffles and augmentation.
        image_size: side in pixels of what the network sees, at most that of the stored images; None for 224 or the
            stored size, whichever is less.
        transfer: type in which floating-point numbers of the model travel, both ways. The server's and the sites'
            own models are float32 always.
        model: of ``evaluate``: a run's model file on the *server's* disk.
        tracking: where the server tells scores and losses as they come, besides its own tables: ``tensorboard``,
            ``mlflow`` or nowhere.
    """

    name: JobName = "fednca_cxr"
    kind: Literal["train", "label_statistics", "evaluate"] = "train"
    method: MethodName = "fednca"
    paper_compat: bool = False
    vocabulary: str | OwnVocabulary = "nih14"
    rounds: int = Field(default=100, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    image_size: int | None = Field(default=None, ge=32, le=1024)
    transfer: Literal["float32", "float16", "bfloat16"] = "float32"
    model: str | None = None
    tracking: Literal["none", "tensorboard", "mlflow"] = "none"
    network: NetworkSettings = NetworkSettings()
    loss: LossSettings = LossSettings()
    fedprox: FedProxSettings = FedProxSettings()
    moon: MoonSettings = MoonSettings()
    fednh: FedNHSettings = FedNHSettings()
    training: TrainingSettings = TrainingSettings()
    aggregation: AggregationSettings = AggregationSettings()
    release: ReleaseSettings = ReleaseSettings()
    federation: FederationSettings = FederationSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="before")
    @classmethod
    def _with_presets(cls, content: Any) -> Any:
        return with_presets(content) if isinstance(content, Mapping) else content

    @field_validator("vocabulary")
    @classmethod
    def _written_out(cls, value: str | OwnVocabulary) -> str | OwnVocabulary:
        from nc_medfl.labels import available_vocabularies, load_vocabulary

        try:
            found = load_vocabulary(value)
        except UserError as error:
            raise ValueError(str(error)) from error
        if value in available_vocabularies():
            return value
        return OwnVocabulary(name=found.name, findings=found.findings)

    def for_sites(self) -> JobSettings:
        """The same settings without the server's file paths, and with ``auto`` choices that hung on it made."""
        normalisation = self.training.normalisation
        if normalisation == "auto":
            normalisation = "imagenet" if self.network.init_weights else "unit"
        return self.model_copy(
            update={
                "model": None,
                "network": self.network.model_copy(update={"init_weights": None}),
                "training": self.training.model_copy(update={"normalisation": normalisation}),
            }
        )


def with_later_keys(written: Mapping[str, Any]) -> dict[str, Any]:
    """A job's settings as this or an older package wrote them whole, with keys that came since as they were then.

    What a key does by default is what was done before there was one; what this package recommends today (the presets)
    is not how that job ran.

    Args:
        written: all of a job's settings, as JSON values.
    """
    named = {name: _renamed(value) if name == "training" else value for name, value in written.items()}
    return merged(JobSettings.model_construct().model_dump(mode="json"), named)
