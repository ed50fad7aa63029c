"""Feature extractors: MONAI's two-dimensional networks without pooling and head, and a small one for CPU."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from nc_medfl.networks import plain
from nc_medfl.networks.etf import ArchitectureError

Norm = Literal["batch", "group"]


class _Spec(NamedTuple):
    build: Callable[[int], OrderedDict[str, nn.Module]]
    plain: Callable[[int], OrderedDict[str, nn.Module]]  # the same in torch alone
    channels: int
    stem: str  # the weight of the first convolution
    halvings: str  # a letter for each halving of the map: c rounds up, f rounds down


class ChannelsLast(nn.Module):
    """Lay the activations out channels last, which convolutions on a CPU run up to 1.6 times faster in.

    The activations and not the weights: the latter stay contiguous, as safetensors wants them on the wire.

    Attributes:
        enabled: False hands them on as they are; ``torch.func.vmap`` knows no memory layouts.
    """

    enabled = True

    def forward(self, x: Tensor) -> Tensor:
        """Lay out ``[B, C, H, W]``."""
        if not self.enabled:
            return x
        return x.contiguous(memory_format=torch.channels_last)


class Backbone(nn.Module):
    """A feature extractor: image ``[B, in_channels, H, W]`` to feature map ``[B, channels, h, w]``.

    Args:
        name: ``small`` (3 blocks, for 64 px on a CPU), ``small32`` (the same with a wider stem of stride 1, for 32 px),
            ``resnet18``, ``resnet50`` or ``densenet121``.
        in_channels: channels of the image.
        norm: ``batch``, or ``group`` (32 groups or the largest power of two that divides): group
            statistics are not shared between images, so skewed sites can't spoil them.
        library: ``monai`` builds it from MONAI's networks, ``torch`` from the same layers without importing
            MONAI. Names, shapes and answers are the same; initial weights may not be.

    Attributes:
        name: as given.
        channels: of the feature map: 96, 96, 512, 2048, 1024.
        features: the layers, under the names that torchvision gives them where it has the network.

    Raises:
        ValueError: if the name or the norm is unknown (also a ``UserError``).
    """

    def __init__(self, name: str, in_channels: int = 1, norm: str = "batch", library: str = "monai") -> None:
        super().__init__()
        if name not in _SPECS:
            raise ArchitectureError(f"no backbone '{name}' (there are: {', '.join(_SPECS)}). Name one of these.")
        if norm not in ("batch", "group"):
            raise ArchitectureError(f"no norm '{norm}' (there are: batch, group). Name one of these.")
        spec = _SPECS[name]
        self.name = name
        self.channels = spec.channels
        self.stem = spec.stem
        layers = spec.build(in_channels) if library == "monai" else spec.plain(in_channels)
        self.features = nn.Sequential(_named(layers.items(), spec.stem.removesuffix(".weight")))
        if norm == "group":
            _batch_to_group_norm(self.features)

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``[B, in_channels, H, W]`` to a feature map ``[B, channels, h, w]``."""
        features: Tensor = self.features(image)
        return features

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Size of the feature map of an image of this size."""
        for rounding in _SPECS[self.name].halvings:
            up = 1 if rounding == "c" else 0
            height, width = (height + up) // 2, (width + up) // 2
        return height, width


def _batch_to_group_norm(module: nn.Module) -> None:
    # MONAI's ResNet hands its `norm` argument to the stem only and its DenseNet to all, so do it for both here.
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            channels = child.num_features
            setattr(module, name, nn.GroupNorm(math.gcd(32, channels), channels))
        else:
            _batch_to_group_norm(child)


def _named(layers: Iterable[tuple[str, nn.Module]], first: str) -> OrderedDict[str, nn.Module]:
    """Layers in order, with the change of memory layout after the one named ``first``."""
    result: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in layers:
        result[name] = layer
        if name == first:
            result["channels_last"] = ChannelsLast()
    return result


def _resnet(builder: str) -> Callable[[int], OrderedDict[str, nn.Module]]:
    def build(in_channels: int) -> OrderedDict[str, nn.Module]:
        from monai.networks import nets  # takes seconds to import: only when a network is built

        # MONAI's defaults are a stem of stride 1 and biased shortcuts: another network than the published one.
        net: Any = getattr(nets, builder)(
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            bias_downsample=False,
            feed_forward=False,
        )
        names = ("conv1", "bn1", "act", "maxpool", "layer1", "layer2", "layer3", "layer4")
        return OrderedDict((name, getattr(net, name)) for name in names)

    return build


def _densenet121(in_channels: int) -> OrderedDict[str, nn.Module]:
    from monai.networks.nets import DenseNet121

    net: Any = DenseNet121(spatial_dims=2, in_channels=in_channels, out_channels=1)
    return OrderedDict([*net.features.named_children(), ("relu5", nn.ReLU(inplace=True))])


def _small(stem: int, stride: int) -> Callable[[int], OrderedDict[str, nn.Module]]:
    """A stem and two residual blocks of stride 2: with a stem of stride 2, 64 px give a map of 8 x 8."""

    def build(in_channels: int) -> OrderedDict[str, nn.Module]:
        return _small_layers(in_channels, stem, stride)

    return build


def _small_layers(in_channels: int, stem: int, stride: int) -> OrderedDict[str, nn.Module]:
    from monai.networks.nets.resnet import ResNetBlock

    def block(inside: int, outside: int) -> nn.Module:
        shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride=2, bias=False), nn.BatchNorm2d(outside))
        result: nn.Module = ResNetBlock(inside, outside, spatial_dims=2, stride=2, downsample=shortcut)
        return result

    net = [
        ("conv1", nn.Conv2d(in_channels, stem, 3, stride=stride, padding=1, bias=False)),
        ("bn1", nn.BatchNorm2d(stem)),
        ("act", nn.ReLU(inplace=True)),
        ("layer1", block(stem, 48)),
        ("layer2", block(48, 96)),
    ]
    for _, layer in net:
        for module in layer.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return OrderedDict(net)


_SPECS: dict[str, _Spec] = {
    "small": _Spec(_small(16, 2), plain.small, 96, "conv1.weight", "ccc"),
    "small32": _Spec(_small(24, 1), plain.small32, 96, "conv1.weight", "cc"),
    "resnet18": _Spec(_resnet("resnet18"), plain.resnet18, 512, "conv1.weight", "ccccc"),
    "resnet50": _Spec(_resnet("resnet50"), plain.resnet50, 2048, "conv1.weight", "ccccc"),
    "densenet121": _Spec(_densenet121, plain.densenet121, 1024, "conv0.weight", "ccfff"),
}
