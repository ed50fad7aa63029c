"""A backbone of three convolutions, for small images on a CPU."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from nc_medfl.networks import BackboneSpec


def _layers(in_channels: int) -> OrderedDict[str, nn.Module]:
    return OrderedDict(
        [
            ("conv1", nn.Conv2d(in_channels, 16, 3, stride=2, padding=1, bias=False)),
            ("bn1", nn.BatchNorm2d(16)),
            ("act1", nn.ReLU(inplace=True)),
            ("conv2", nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)),
            ("bn2", nn.BatchNorm2d(32)),
            ("act2", nn.ReLU(inplace=True)),
            ("conv3", nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False)),
            ("bn3", nn.BatchNorm2d(64)),
            ("act3", nn.ReLU(inplace=True)),
        ]
    )


#: 64 channels; the map is halved three times, rounding up.
NARROW = BackboneSpec(_layers, channels=64, stem="conv1.weight", halvings="ccc")
