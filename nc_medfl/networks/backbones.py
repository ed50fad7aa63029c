"""Feature extractors: MONAI's two-dimensional networks without pooling and head, and a small one for CPU."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nc_medfl.networks import plain
from nc_medfl.networks.etf import ArchitectureError
from nc_medfl.plugins import load_plugin, names_with_plugins

Norm = Literal["batch", "group"]


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone is made of; a plug-in names one of these (docs/how-to/extend.md).

    Attributes:
        build: makes the layers for so many input channels, to be called one after the other: image
            ``[B, in_channels, H, W]`` to feature map ``[B, channels, h, w]``.
        channels: of the feature map.
        stem: name of the weight of the first convolution, such as ``conv1.weight``.
        halvings: a letter for each halving of the map: ``c`` rounds up (a convolution of stride 2 with padding), ``f``
            rounds down.
        plain: the same without importing MONAI; None where ``build`` doesn't.
    """

    build: Callable[[int], OrderedDict[str, nn.Module]]
    channels: int
    stem: str
    halvings: str
    plain: Callable[[int], OrderedDict[str, nn.Module]] | None = None

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Size of the feature map of an image of this size."""
        for rounding in self.halvings:
            up = 1 if rounding == "c" else 0
            height, width = (height + up) // 2, (width + up) // 2
        return height, width


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
            ``resnet18``, ``resnet50``, ``densenet121``, or a plug-in's.
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
        spec = _spec_of(name)
        if norm not in ("batch", "group"):
            raise ArchitectureError(f"no norm '{norm}' (there are: batch, group). Name one of these.")
        self.name = name
        self._spec = spec
        self.channels = spec.channels
        self.stem = spec.stem
        layers = (spec.plain or spec.build)(in_channels) if library == "torch" else spec.build(in_channels)
        self.features = nn.Sequential(_named(layers.items(), spec.stem.removesuffix(".weight")))
        if name not in _SPECS:
            _check_plugin(name, spec, self.features, in_channels)
        if norm == "group":
            _batch_to_group_norm(self.features)

    def forward(self, image: Tensor) -> Tensor:
        """Map images ``[B, in_channels, H, W]`` to a feature map ``[B, channels, h, w]``."""
        features: Tensor = self.features(image)
        return features

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Size of the feature map of an image of this size."""
        return self._spec.map_size(height, width)


def _spec_of(name: str) -> BackboneSpec:
    found = _SPECS.get(name) or load_plugin("backbones", name, BackboneSpec, _SPECS)
    if found is None:
        known = ", ".join(names_with_plugins("backbones", tuple(_SPECS)))
        raise ArchitectureError(f"no backbone '{name}' (there are: {known}). Name one of these.")
    return found


def _check_plugin(name: str, spec: BackboneSpec, features: nn.Sequential, in_channels: int) -> None:
    """Try what a plug-in says of itself, on an image of odd sides."""
    side = 2 ** len(spec.halvings) * 2 + 1
    expected = (2, spec.channels, *spec.map_size(side, side))
    if spec.stem not in dict(features.named_parameters()):
        raise ArchitectureError(f"backbone '{name}': it has no parameter '{spec.stem}', its 'stem'. Mend the plug-in.")
    training = features.training
    with torch.no_grad():
        found = tuple(features.eval()(torch.zeros(2, in_channels, side, side)).shape)
    features.train(training)
    if found != expected:
        raise ArchitectureError(
            f"backbone '{name}': its map of a {side} x {side} image is {list(found)}, and by its 'channels' and "
            f"'halvings' would be {list(expected)}. Mend the plug-in."
        )


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


_SPECS: dict[str, BackboneSpec] = {
    "small": BackboneSpec(_small(16, 2), 96, "conv1.weight", "ccc", plain.small),
    "small32": BackboneSpec(_small(24, 1), 96, "conv1.weight", "cc", plain.small32),
    "resnet18": BackboneSpec(_resnet("resnet18"), 512, "conv1.weight", "ccccc", plain.resnet18),
    "resnet50": BackboneSpec(_resnet("resnet50"), 2048, "conv1.weight", "ccccc", plain.resnet50),
    "densenet121": BackboneSpec(_densenet121, 1024, "conv0.weight", "ccfff", plain.densenet121),
}
