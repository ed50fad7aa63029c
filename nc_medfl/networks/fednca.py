"""The network of FedNCA-ML: backbone, class queries over its feature map, fixed simplex classifier."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nc_medfl.networks.backbones import Backbone
from nc_medfl.networks.class_attention import ClassMLP, ClassQueryAttention, attention_maps
from nc_medfl.networks.etf import ArchitectureError, ETFClassifier, simplex_etf, tensor_fingerprint
from nc_medfl.networks.identity import network_fingerprint, seeded_weights
from nc_medfl.networks.joint_head import read
from nc_medfl.networks.weights import load_backbone_weights

_QUERIES = ("fixed", "learned", "from_frame", "mlp")
_QUERY_LENGTHS = ("unit", "sqrt_dim")


class FedNCAOutput(NamedTuple):
    """What :class:`FedNCANet` gives.

    Attributes:
        logits: the predictions before the sigmoid, ``[B, C]``, the diagonal of the cross logits.
        cross_logits: every class feature compared with every vertex, ``[B, C, C]``.
        class_features: one feature a class and image, ``[B, C, D]``.
        attention: where each class looked, ``[B, heads, C, H*W]``; each row sums to one.
    """

    logits: Tensor
    cross_logits: Tensor
    class_features: Tensor
    attention: Tensor


class FedNCANet(nn.Module):
    """The network of METHOD sections 1 to 3.

    Args:
        num_classes: C, the findings of the vocabulary, in its order.
        backbone: ``small``, ``small32``, ``resnet18``, ``resnet50`` or ``densenet121``.
        in_channels: channels of the image.
        feature_dim: D; None takes the backbone's own channels, another number adds a 1x1 projection.
        norm: ``batch`` or ``group``.
        num_heads: attention heads; D must be a multiple.
        queries: ``fixed`` (the frame's rows, never trained), ``learned`` (from random ones), ``from_frame``
            (learned, from the frame's rows), or ``mlp`` (no queries: a small network a class, an ablation).
        query_length: of the frame's rows as queries: ``unit``, or ``sqrt_dim`` for the square root of D, which is what
            the first weights of attention are made for: unit queries look everywhere alike for many rounds.
        position_code: add a fixed sine-cosine code to the keys.
        normalise_features: divide class features by their length before they are compared with the frame.
        frame_seed: rotates the frame at random; None leaves it on the first C axes.
        learned_frame: train the frame too, from the simplex on (an ablation).
        init_scale: where the classifier's scale starts.
        init_weights: local file with weights of the backbone, trained elsewhere.
        init_seed: seed of all other weights, apart from torch's global generator; None draws from that.
        library: whose layers the backbone is built from (see :class:`Backbone`).

    Attributes:
        backbone, projection, class_attention, classifier: the parts, in the order of the data's way.
        frame: the classifier's frame, ``[C, D]``.

    Raises:
        ValueError: if C, D and the heads don't go together or a name is unknown (also a ``UserError``).
        UserError: if ``init_weights`` does not match the backbone; it lists what did not.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet18",
        in_channels: int = 1,
        feature_dim: int | None = None,
        *,
        norm: str = "batch",
        num_heads: int = 4,
        queries: str = "fixed",
        query_length: str = "unit",
        position_code: bool = False,
        normalise_features: bool = False,
        frame_seed: int | None = None,
        learned_frame: bool = False,
        init_scale: float = 10.0,
        init_weights: str | None = None,
        init_seed: int | None = 0,
        library: str = "monai",
    ) -> None:
        super().__init__()
        if queries not in _QUERIES:
            raise ArchitectureError(f"no queries '{queries}' (there are: {', '.join(_QUERIES)}). Name one of these.")
        if query_length not in _QUERY_LENGTHS:
            raise ArchitectureError(f"no query_length '{query_length}' (there are: unit, sqrt_dim). Name one of these.")
        with seeded_weights(init_seed):
            self.backbone = Backbone(backbone, in_channels, norm, library)
            dim = self.backbone.channels if feature_dim is None else feature_dim
            frame = simplex_etf(num_classes, dim, seed=frame_seed)
            self.projection: nn.Module = nn.Identity()
            if dim != self.backbone.channels:
                self.projection = nn.Conv2d(self.backbone.channels, dim, kernel_size=1)
            self.class_attention = _reader(
                frame if query_length == "unit" else frame * math.sqrt(dim), queries, num_heads, position_code
            )
        self.classifier = ETFClassifier(frame, init_scale, normalise=normalise_features, learned=learned_frame)
        # Of a learned frame, what sites must agree on is where it starts.
        self._first_frame = tensor_fingerprint(frame) if learned_frame else None
        self._settings: dict[str, Any] = {
            "num_classes": num_classes,
            "backbone": backbone,
            "in_channels": in_channels,
            "feature_dim": dim,
            "norm": norm,
            "num_heads": num_heads,
            "queries": queries,
            "position_code": position_code,
            "normalise_features": normalise_features,
        }
        if init_weights is not None:
            load_backbone_weights(self.backbone, init_weights)

    @property
    def frame(self) -> Tensor:
        """The simplex frame M, ``[C, D]``."""
        return self.classifier.frame

    def forward(self, image: Tensor) -> FedNCAOutput:
        """Read images ``[B, in_channels, H, W]``."""
        class_features, attention, cross_logits = read(
            self.class_attention, self.classifier, self.projection(self.backbone(image))
        )
        return FedNCAOutput(cross_logits.diagonal(dim1=1, dim2=2), cross_logits, class_features, attention)

    def predictions(self, image: Tensor) -> Tensor:
        """The logits ``[B, C]`` alone of images ``[B, in_channels, H, W]``, by less work where that can be."""
        reader = self.class_attention
        if not isinstance(reader, ClassQueryAttention) or self.classifier.normalise:
            logits: Tensor = self(image).logits
            return logits
        feature_map = self.projection(self.backbone(image))
        with torch.autocast(image.device.type, enabled=False):
            own = reader.compare(feature_map.to(self.frame.dtype), self.frame)
            return self.classifier.scale * own + self.classifier.bias

    def feature_map_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the feature map of an image of this size in pixels."""
        return self.backbone.map_size(height, width)

    def attention_maps(self, output: FedNCAOutput, image_size: tuple[int, int]) -> Tensor:
        """An output's attention as maps ``[B, heads, C, h, w]``.

        Args:
            output: of this network.
            image_size: height and width of the image it was given, in pixels.
        """
        return attention_maps(output.attention, *self.feature_map_size(*image_size))

    def frame_fingerprint(self) -> str:
        """SHA-256 of the frame, rounded to five decimals; of a learned one, of the simplex that it starts from."""
        return self._first_frame or tensor_fingerprint(self.classifier.frame)

    def fingerprint(self) -> str:
        """SHA-256 of what must agree between sites: architecture, ordered names and shapes, frame and queries.

        Training does not change it, nor do initial weights.
        """
        guarded = {"frame": self.frame_fingerprint()}
        queries = dict(self.class_attention.named_buffers()).get("class_queries")
        if queries is not None:
            guarded["class_queries"] = tensor_fingerprint(queries)
        return network_fingerprint(self, self._settings, guarded)


def _reader(rows: Tensor, queries: str, num_heads: int, position_code: bool) -> nn.Module:
    """The part that gives each class its feature."""
    if queries == "mlp":
        return ClassMLP(*rows.shape)
    start = torch.randn(rows.shape) * rows.shape[1] ** -0.5 if queries == "learned" else rows
    return ClassQueryAttention(start, num_heads, learned=queries != "fixed", position_code=position_code)
