"""What ``model.json`` says of a model, typed: nothing enters from a file that is not described here."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nc_medfl.names import BackboneName
from nc_medfl.settings import Settings

SCHEMA_VERSION = 1

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class NetworkDescription(Settings):
    """Which network the weights are of, and its arguments (see ``FedNCANet`` and ``PooledNet``)."""

    kind: Literal["FedNCANet", "PooledNet"]
    num_classes: int = Field(ge=1, le=1024)
    backbone: BackboneName
    in_channels: Literal[1, 3]
    norm: Literal["batch", "group"]
    feature_dim: int | None = Field(default=None, ge=1, le=8192)
    num_heads: int = Field(default=4, ge=1, le=256)
    queries: Literal["fixed", "learned", "from_frame", "mlp"] = "fixed"
    query_length: Literal["unit", "sqrt_dim"] = "unit"
    position_code: bool = False
    normalise_features: bool = False
    frame_seed: int | None = Field(default=None, ge=0)
    learned_frame: bool = False
    head: Literal["linear", "mlp", "simplex", "prototypes"] = "linear"


class Preparation(Settings):
    """How images were prepared; input prepared otherwise is refused.

    Attributes:
        reader: version of the reader that turned files into display values.
        size: side of the stored square, pixels.
        jpeg2000_reduce: resolution levels of JPEG 2000 left out.
        settings_hash: as stores carry it: a hash of the above and of the findings.
    """

    reader: int
    size: int = Field(ge=16, le=2048)
    jpeg2000_reduce: int = Field(default=0, ge=0, le=5)
    settings_hash: str


class Preprocessing(Settings):
    """What a stored image goes through before the network: resize, ``(x / 255 - mean) / std``, equal channels."""

    image_size: int = Field(ge=16, le=2048)
    mean: tuple[Finite, ...] = Field(min_length=1, max_length=3)
    std: tuple[Positive, ...] = Field(min_length=1, max_length=3)


class OperatingPoint(Settings):
    """Where one site, or all patients pooled, call a finding present, and how scores become probabilities.

    Attributes:
        thresholds: on the network's own scores, a finding each; None where none could be chosen.
        reasons: why not, ``""`` where one could.
        rule: how they were chosen, on validation patients.
        calibration: ``none``, ``temperature`` or ``platt``; ``sigmoid(slope * logit(score) + intercept)``.
        slope: a finding each, more than 0, so that calibration never changes the order of scores.
        intercept: a finding each.
    """

    thresholds: tuple[Share | None, ...]
    reasons: tuple[str, ...]
    rule: str
    calibration: Literal["none", "temperature", "platt"] = "none"
    slope: tuple[Positive, ...]
    intercept: tuple[Finite, ...]


class Reference(Settings):
    """What images of the training data are like, in sums over all of them (tensors lie beside the weights).

    Attributes:
        descriptors: names of the numbers that an image is described by.
        mean: of each over the reference images.
        covariance: between them, rows.
        limit: a score above this is unlike the training data.
        quantile: the share of reference images at or below the limit.
        fitted_on: images behind the mean image and the features.
        measured_on: images behind mean, covariance and limit.
    """

    descriptors: tuple[str, ...]
    mean: tuple[Finite, ...]
    covariance: tuple[tuple[Finite, ...], ...]
    limit: Positive
    quantile: Share
    fitted_on: Count
    measured_on: Count


class Result(Settings):
    """One number of the results on the test split, with its interval; small counts are None."""

    site: str
    finding: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    n_positive: Count | None
    n_annotated: Count
    reason: str = ""


class SiteData(Settings):
    """What a site trained on, in counts; None where the site told none."""

    site: str
    split: str
    n_images: Count | None
    n_patients: Count | None
    positives: dict[str, int | None]


class ModelDescription(Settings):
    """``model.json``.

    Attributes:
        fingerprints: of vocabulary, frame and network, as the federation compared them.
        weights_sha256: of ``model.safetensors``.
        operating_points: by site, and ``pooled``.
        reference: None where nobody who held images has described them.
        training: method, seed, rounds and settings of the run, without paths.
        fingerprint: SHA-256 of all else in here.
    """

    schema_version: int
    package_version: str
    name: str
    method: str
    vocabulary: str
    findings: tuple[str, ...] = Field(min_length=1, max_length=1024)
    network: NetworkDescription
    preparation: Preparation
    preprocessing: Preprocessing
    fingerprints: dict[str, str]
    weights_sha256: str
    operating_points: dict[str, OperatingPoint] = Field(default_factory=dict)
    reference: Reference | None = None
    training: dict[str, Any] = Field(default_factory=dict)
    data: tuple[SiteData, ...] = ()
    results: tuple[Result, ...] = ()
    source_sha256: str = ""
    fingerprint: str = ""

    @model_validator(mode="after")
    def _fits_its_findings(self) -> ModelDescription:
        n = len(self.findings)
        if self.network.num_classes != n:
            raise ValueError(f"{n} findings need a network of as many, not {self.network.num_classes}")
        for site, point in self.operating_points.items():
            if {len(point.thresholds), len(point.reasons), len(point.slope), len(point.intercept)} != {n}:
                raise ValueError(f"the operating point of {site} is not of {n} findings")
        channels = self.network.in_channels
        if not {len(self.preprocessing.mean), len(self.preprocessing.std)} <= {1, channels}:
            raise ValueError(f"mean and std are of another number of channels than {channels}")
        if self.reference is not None:
            k = len(self.reference.descriptors)
            rows = self.reference.covariance
            if len(self.reference.mean) != k or len(rows) != k or any(len(row) != k for row in rows):
                raise ValueError(f"the reference is not of {k} descriptors")
        return self

    def vocabulary_fingerprint(self) -> str:
        """As ``Vocabulary.fingerprint``, which takes pandas to import."""
        return hashlib.sha256("\n".join(self.findings).encode()).hexdigest()

    def sealed(self) -> ModelDescription:
        """The same with the fingerprint of its content."""
        return self.model_copy(update={"fingerprint": self.own_fingerprint()})

    def own_fingerprint(self) -> str:
        """SHA-256 of everything in here but the fingerprint itself."""
        content = self.model_dump(mode="json", exclude={"fingerprint"})
        # Younger than the first such files, whose fingerprints stay as they are.
        if not self.network.learned_frame:
            del content["network"]["learned_frame"]
        return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
