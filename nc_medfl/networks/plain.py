"""The backbones' layers in torch alone, for prediction: importing MONAI takes longer than reading a radiograph.

Each has the same parts under the same names and shapes as what MONAI builds, so it takes the same weights and gives
the same answers. Training builds MONAI's. ResNet: He et al., CVPR 2016; DenseNet: Huang et al., CVPR 2017.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

Layers = OrderedDict[str, nn.Module]

_GROWTH, _BOTTLENECK = 32, 4  # of DenseNet-121


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, inside: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inside, H, W]`` to ``[B, planes, H / stride, W / stride]``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.act(self.bn1(self.conv1(x)))
        result: Tensor = self.act(self.bn2(self.conv2(out)) + shortcut)
        return result


class Bottleneck(nn.Module):
    """A 3 x 3 convolution between two of 1 x 1, beside a shortcut."""

    expansion = 4

    def __init__(self, inside: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.act = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inside, H, W]`` to ``[B, 4 * planes, H / stride, W / stride]``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.act(self.bn1(self.conv1(x)))
        out = self.act(self.bn2(self.conv2(out)))
        result: Tensor = self.act(self.bn3(self.conv3(out)) + shortcut)
        return result


class DenseLayer(nn.Module):
    """New channels beside those that came in."""

    def __init__(self, inside: int) -> None:
        super().__init__()
        wide = _BOTTLENECK * _GROWTH
        self.layers = nn.Sequential(
            OrderedDict[str, nn.Module](
                norm1=nn.BatchNorm2d(inside),
                relu1=nn.ReLU(inplace=True),
                conv1=nn.Conv2d(inside, wide, 1, bias=False),
                norm2=nn.BatchNorm2d(wide),
                relu2=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(wide, _GROWTH, 3, padding=1, bias=False),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, inside, H, W]`` to ``[B, inside + 32, H, W]``."""
        # The first norm makes a tensor of its own, so the ReLU in place leaves x as it was.
        return torch.cat([x, self.layers(x)], 1)


def small(in_channels: int, stem: int = 16, stride: int = 2) -> Layers:
    """The small network's layers: a stem and two residual blocks of stride 2."""
    return OrderedDict(
        conv1=nn.Conv2d(in_channels, stem, 3, stride=stride, padding=1, bias=False),
        bn1=nn.BatchNorm2d(stem),
        act=nn.ReLU(inplace=True),
        layer1=ResidualBlock(stem, 48, 2, _shortcut(stem, 48, 2)),
        layer2=ResidualBlock(48, 96, 2, _shortcut(48, 96, 2)),
    )


def small32(in_channels: int) -> Layers:
    """The small network for images of 32 pixels: a wider stem of stride 1."""
    return small(in_channels, stem=24, stride=1)


def resnet18(in_channels: int) -> Layers:
    """ResNet-18's layers without pooling and head."""
    return _resnet(ResidualBlock, (2, 2, 2, 2), in_channels)


def resnet50(in_channels: int) -> Layers:
    """ResNet-50's layers without pooling and head."""
    return _resnet(Bottleneck, (3, 4, 6, 3), in_channels)


def densenet121(in_channels: int) -> Layers:
    """DenseNet-121's layers without pooling and head."""
    layers: Layers = OrderedDict(
        conv0=nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False),
        norm0=nn.BatchNorm2d(64),
        relu0=nn.ReLU(inplace=True),
        pool0=nn.MaxPool2d(3, stride=2, padding=1),
    )
    channels = 64
    for number, count in enumerate((6, 12, 24, 16), start=1):
        block: Layers = OrderedDict()
        for k in range(count):
            block[f"denselayer{k + 1}"] = DenseLayer(channels)
            channels += _GROWTH
        layers[f"denseblock{number}"] = nn.Sequential(block)
        if number < 4:
            layers[f"transition{number}"] = _transition(channels)
            channels //= 2
    layers["norm5"] = nn.BatchNorm2d(channels)
    layers["relu5"] = nn.ReLU(inplace=True)
    return layers


def _transition(channels: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            norm=nn.BatchNorm2d(channels),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
            pool=nn.AvgPool2d(2, stride=2),
        )
    )


def _shortcut(inside: int, outside: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inside, outside, 1, stride=stride, bias=False), nn.BatchNorm2d(outside))


def _resnet(block: type[ResidualBlock | Bottleneck], counts: Sequence[int], in_channels: int) -> Layers:
    layers: Layers = OrderedDict(
        conv1=nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(64),
        act=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    channels = 64
    for number, count in enumerate(counts):
        planes, stride = 64 * 2**number, 1 if number == 0 else 2
        outside = planes * block.expansion
        changes = stride != 1 or channels != outside
        first = block(channels, planes, stride, _shortcut(channels, outside, stride) if changes else None)
        layers[f"layer{number + 1}"] = nn.Sequential(first, *(block(outside, planes) for _ in range(count - 1)))
        channels = outside
    return layers
