"""The plain baseline: backbone, global average pooling, a head."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from nc_medfl.networks.backbones import Backbone
from nc_medfl.networks.etf import ArchitectureError, tensor_fingerprint
from nc_medfl.networks.heads import HEADS, make_head
from nc_medfl.networks.identity import network_fingerprint, seeded_weights
from nc_medfl.networks.weights import load_backbone_weights


class PooledOutput(NamedTuple):
    """What :class:`PooledNet` gives.

    Attributes:
        logits: the predictions before the sigmoid, ``[B, C]``.
        features: what the head read, ``[B, D]``.
    """

    logits: Tensor
    features: Tensor


class PooledNet(nn.Module):
    """Pooled features and a head, as FedAvg trains it. With one seed its backbone starts as FedNCANet's does.

    Args:
        num_classes: C, the findings of the vocabulary, in its order.
        backbone: ``small``, ``small32``, ``resnet18``, ``resnet50`` or ``densenet121``.
        in_channels: channels of the image.
        head: ``linear``, ``mlp`` (LayerNorm, a hidden layer of D, GELU), the published baseline's, ``simplex`` or
            ``prototypes`` (see :mod:`nc_medfl.networks.heads`).
        norm: ``batch`` or ``group``.
        init_weights: local file with weights of the backbone, trained elsewhere.
        frame_seed: of the simplex that the last two start from (see :func:`simplex_etf`).
        init_scale: of their logits.
        init_seed: seed of all other weights, apart from torch's global generator; None draws from that.
        library: whose layers the backbone is built from (see :class:`Backbone`).

    Raises:
        ValueError: if a name is unknown or there is no class (also a ``UserError``).
        UserError: if ``init_weights`` does not match the backbone; it lists what did not.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet18",
        in_channels: int = 1,
        *,
        head: str = "linear",
        norm: str = "batch",
        frame_seed: int | None = None,
        init_scale: float = 10.0,
        init_weights: str | None = None,
        init_seed: int | None = 0,
        library: str = "monai",
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ArchitectureError("a network needs 1 class or more. Name a finding.")
        if head not in HEADS:
            raise ArchitectureError(f"no head '{head}' (there are: {', '.join(HEADS)}). Name one of these.")
        with seeded_weights(init_seed):
            self.backbone = Backbone(backbone, in_channels, norm, library)
            self.head = make_head(head, self.backbone.channels, num_classes, frame_seed, init_scale)
        self._settings: dict[str, Any] = {
            "num_classes": num_classes,
            "backbone": backbone,
            "in_channels": in_channels,
            "head": head,
            "norm": norm,
        }
        if init_weights is not None:
            load_backbone_weights(self.backbone, init_weights)

    def forward(self, image: Tensor) -> PooledOutput:
        """Read images ``[B, in_channels, H, W]``."""
        features = self.backbone(image).mean(dim=(2, 3))
        return PooledOutput(self.head(features), features)

    def predictions(self, image: Tensor) -> Tensor:
        """The logits ``[B, C]`` alone."""
        logits: Tensor = self(image).logits
        return logits

    def fingerprint(self) -> str:
        """SHA-256 of what must agree between sites: architecture, ordered names and shapes, and a fixed frame."""
        frame = dict(self.head.named_buffers()).get("frame")
        return network_fingerprint(self, self._settings, {} if frame is None else {"frame": tensor_fingerprint(frame)})
