"""What a hospital sets for itself: its store, its device, and what leaves the house."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from nc_medfl.names import MethodName
from nc_medfl.settings import Settings

Device = Annotated[
    str,
    Field(pattern=r"^(cpu|cuda:\d+)$"),
    BeforeValidator(lambda value: f"cuda:{value}" if isinstance(value, int) else value),
]
#: Without dots: FLARE takes what stands before one for another site's name.
SiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class StatisticsNoise(Settings):
    """Gaussian noise on a site's class statistics, counts and feature sums together.

    Attributes:
        multiplier: standard deviation of the noise over the most that one patient can change the statistics.
        images_per_patient: so many training images of a patient enter the statistics, which bounds that.
    """

    multiplier: float = Field(gt=0)
    images_per_patient: int = Field(default=1, ge=1)


class PrivateTraining(Settings):
    """DP-SGD: the gradient of each patient is clipped, and noise is added to their sum.

    Attributes:
        multiplier: standard deviation of the noise over ``max_grad_norm``.
        max_grad_norm: L2 norm to which a patient's gradient is clipped.
    """

    multiplier: float = Field(gt=0)
    max_grad_norm: float = Field(default=1.0, gt=0)


class PrivacySettings(Settings):
    """What a site lets out of the house, and for whom it works. A job can't change any of it.

    Attributes:
        min_positives: statistics of a class with fewer positives than this in the training split are
            withheld (0: none are).
        min_test_positives: so are the metrics of a finding with fewer positives than this in the split they are of.
        allow_histograms: false sends no histogram of scores with the final test.
        min_bin_patients: fewest patients in a run of bins of such a histogram.
        min_group_patients: metrics of a group of patients (by sex, age and so on) with fewer than this are withheld;
            the job may ask for more (``evaluation.min_group``).
        min_patients: takes no part with fewer patients than this in the training split.
        min_images: takes no part with fewer images than this in the training split.
        allow_class_statistics: false sends neither counts nor feature sums of any class.
        statistics_noise: noise on the class statistics.
        update_clip: largest L2 norm of what training changes in the model; more is scaled down to it.
        update_noise: standard deviation of noise on each number of the change, over ``update_clip``.
        dp_sgd: train so that no patient shows in the model.
        delta: of every (epsilon, delta) that is told; less than one over the number of patients.
        max_epsilon: sends nothing more once this is spent on the training split, over all jobs.
        allowed_methods: methods it trains (None: all).
        allowed_jobs: names of jobs it takes part in, ``*`` for any text (None: all).
        audit: file of the audit trail (None: ``site_private/audit.jsonl`` in the store).
    """

    min_positives: int = Field(default=0, ge=0)
    min_test_positives: int = Field(default=0, ge=0)
    allow_histograms: bool = True
    min_bin_patients: int = Field(default=5, ge=1)
    min_group_patients: int = Field(default=10, ge=1)
    min_patients: int = Field(default=0, ge=0)
    min_images: int = Field(default=0, ge=0)
    allow_class_statistics: bool = True
    statistics_noise: StatisticsNoise | None = None
    update_clip: float | None = Field(default=None, gt=0)
    update_noise: float = Field(default=0.0, ge=0)
    dp_sgd: PrivateTraining | None = None
    delta: float = Field(default=1e-5, gt=0, lt=1)
    max_epsilon: float | None = Field(default=None, gt=0)
    allowed_methods: tuple[MethodName, ...] | None = None
    allowed_jobs: tuple[str, ...] | None = None
    audit: Path | None = None

    @property
    def protects_model(self) -> bool:
        """Whether the model that is sent carries a guarantee."""
        return self.dp_sgd is not None or self.update_noise > 0

    @property
    def protects_statistics(self) -> bool:
        """Whether class statistics that are sent carry a guarantee."""
        return self.statistics_noise is not None and self.allow_class_statistics

    @model_validator(mode="after")
    def _is_whole(self) -> PrivacySettings:
        if self.update_noise > 0 and self.update_clip is None:
            raise ValueError("update_noise needs update_clip, which bounds what it hides")
        if self.protects_model and self.allow_class_statistics and self.statistics_noise is None:
            raise ValueError(
                "with dp_sgd or update_noise the class statistics need noise too (statistics_noise), or must stay "
                "(allow_class_statistics: false); else they tell what the noise hides"
            )
        if self.max_epsilon is not None and not (self.protects_model or self.protects_statistics):
            raise ValueError("max_epsilon needs noise to count: statistics_noise, update_noise or dp_sgd")
        return self


class SiteConfig(Settings):
    """A hospital's own settings, on its own disk.

    Attributes:
        name: the site's name in the federation.
        store: folder of its prepared images; a relative path counts from the YAML file.
        label_map: its label map for preparing, if any: a YAML file, the name of a map of the package, or the map.
        batch_size: overrides the job's, where memory is short.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        devices: train on several at once, one process each: ``[0, 1]`` for two GPUs (``[cpu, cpu]`` in tests).
            Takes the place of ``device`` while training.
        trainer: ``process`` trains in a process of its own for every task, so that a crash there costs one update
            and not the job; ``inline`` trains in FLARE's client process; ``auto`` takes ``inline`` in the
            simulator and ``process`` elsewhere.
        threads: CPU threads of the training process (None: PyTorch's choice).
        keep_best_model: keep, beside the store, the model that scored best on validation here after training here; it
            never leaves. Costs a scoring of the validation split a round.
        privacy: what leaves the house.
        salt_file: the secret that keys patient hashes, if it is kept apart from the store.
    """

    name: SiteName
    store: Path
    label_map: Path | dict[str, Any] | None = None
    batch_size: int | None = Field(default=None, ge=2)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    devices: tuple[Device, ...] = ()
    trainer: Literal["auto", "inline", "process"] = "auto"
    threads: int | None = Field(default=None, ge=1)
    keep_best_model: bool = False
    privacy: PrivacySettings = PrivacySettings()
    salt_file: Path | None = None
