"""The layers in torch alone against MONAI's."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from nc_medfl.networks import FedNCANet, PooledNet


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("backbone", ["small", "resnet18", "resnet50", "densenet121"])
def test_plain_network_takes_monais_weights_and_gives_its_answers(backbone, norm):
    theirs = FedNCANet(3, backbone, norm=norm, num_heads=2).eval()
    ours = FedNCANet(3, backbone, norm=norm, num_heads=2, library="torch", init_seed=5).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():  # running statistics that are not 0 and 1
        if value.is_floating_point():
            value.add_(0.01 * torch.rand(value.shape, generator=torch.Generator().manual_seed(len(name))))
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for a, b in zip(ours(image), theirs(image), strict=True):
            torch.testing.assert_close(a, b)
    assert ours.fingerprint() == theirs.fingerprint()


def test_plain_network_does_not_import_monai():
    code = (
        "import sys, torch\n"
        "from nc_medfl.networks import PooledNet\n"
        "PooledNet(2, 'densenet121', library='torch')(torch.rand(1, 1, 64, 64))\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'monai']\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plain_baseline_has_monais_fingerprint():
    assert PooledNet(2, "small", library="torch").fingerprint() == PooledNet(2, "small").fingerprint()
