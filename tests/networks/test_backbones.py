"""The feature extractors, and weights trained elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nc_medfl.errors import UserError
from nc_medfl.networks.backbones import Backbone
from nc_medfl.networks.fednca import FedNCANet
from nc_medfl.networks.pooled import PooledNet
from nc_medfl.networks.weights import load_backbone_weights

State = dict[str, Tensor]

# ---- torchvision's networks as its documentation and papers describe them, from a state dict alone ----


def _conv(state: State, name: str, out: int, inside: int, size: int, rng: torch.Generator) -> None:
    fan = inside * size * size
    state[f"{name}.weight"] = torch.randn(out, inside, size, size, generator=rng) * (2 / fan) ** 0.5


def _norm(state: State, name: str, channels: int, rng: torch.Generator) -> None:
    state[f"{name}.weight"] = 1 + 0.1 * torch.randn(channels, generator=rng)
    state[f"{name}.bias"] = 0.1 * torch.randn(channels, generator=rng)
    state[f"{name}.running_mean"] = 0.1 * torch.randn(channels, generator=rng)
    state[f"{name}.running_var"] = 1 + torch.rand(channels, generator=rng)
    state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def resnet18_state(in_channels: int = 3) -> State:
    rng, state = torch.Generator().manual_seed(0), {}
    _conv(state, "conv1", 64, in_channels, 7, rng)
    _norm(state, "bn1", 64, rng)
    inside = 64
    for layer, width in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            path = f"layer{layer}.{block}"
            _conv(state, f"{path}.conv1", width, inside, 3, rng)
            _norm(state, f"{path}.bn1", width, rng)
            _conv(state, f"{path}.conv2", width, width, 3, rng)
            _norm(state, f"{path}.bn2", width, rng)
            if inside != width:
                _conv(state, f"{path}.downsample.0", width, inside, 1, rng)
                _norm(state, f"{path}.downsample.1", width, rng)
            inside = width
    state["fc.weight"], state["fc.bias"] = torch.zeros(1000, 512), torch.zeros(1000)
    return state


def _normed(state: State, name: str, x: Tensor) -> Tensor:
    keys = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(state[f"{name}.{key}"] for key in keys))


def resnet18_features(state: State, x: Tensor) -> Tensor:
    x = F.conv2d(x, state["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(_normed(state, "bn1", x).relu(), 3, stride=2, padding=1)
    for layer in range(1, 5):
        for block in range(2):
            path = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = F.conv2d(x, state[f"{path}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(_normed(state, f"{path}.bn1", y).relu(), state[f"{path}.conv2.weight"], padding=1)
            if f"{path}.downsample.0.weight" in state:
                x = _normed(
                    state, f"{path}.downsample.1", F.conv2d(x, state[f"{path}.downsample.0.weight"], stride=stride)
                )
            x = (_normed(state, f"{path}.bn2", y) + x).relu()
    return x


def densenet121_state() -> State:
    rng, state = torch.Generator().manual_seed(0), {}
    _conv(state, "features.conv0", 64, 3, 7, rng)
    _norm(state, "features.norm0", 64, rng)
    width = 64
    for block, layers in enumerate((6, 12, 24, 16), start=1):
        for layer in range(1, layers + 1):
            path = f"features.denseblock{block}.denselayer{layer}"
            _norm(state, f"{path}.norm1", width, rng)
            _conv(state, f"{path}.conv1", 128, width, 1, rng)
            _norm(state, f"{path}.norm2", 128, rng)
            _conv(state, f"{path}.conv2", 32, 128, 3, rng)
            width += 32
        if block < 4:
            _norm(state, f"features.transition{block}.norm", width, rng)
            width //= 2
            _conv(state, f"features.transition{block}.conv", width, 2 * width, 1, rng)
    _norm(state, "features.norm5", width, rng)
    state["classifier.weight"], state["classifier.bias"] = torch.zeros(1000, 1024), torch.zeros(1000)
    return state


def densenet121_features(state: State, x: Tensor) -> Tensor:
    x = F.conv2d(x, state["features.conv0.weight"], stride=2, padding=3)
    x = F.max_pool2d(_normed(state, "features.norm0", x).relu(), 3, stride=2, padding=1)
    for block, layers in enumerate((6, 12, 24, 16), start=1):
        for layer in range(1, layers + 1):
            path = f"features.denseblock{block}.denselayer{layer}"
            y = F.conv2d(_normed(state, f"{path}.norm1", x).relu(), state[f"{path}.conv1.weight"])
            y = F.conv2d(_normed(state, f"{path}.norm2", y).relu(), state[f"{path}.conv2.weight"], padding=1)
            x = torch.cat([x, y], dim=1)
        if block < 4:
            path = f"features.transition{block}"
            x = F.avg_pool2d(F.conv2d(_normed(state, f"{path}.norm", x).relu(), state[f"{path}.conv.weight"]), 2)
    return _normed(state, "features.norm5", x).relu()


def saved(folder: Path, content: Any, name: str = "weights.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


# ---- the networks ----


@pytest.mark.parametrize(
    ("name", "channels", "places", "size"),
    [("small", 96, 8, 64), ("resnet18", 512, 7, 224), ("resnet50", 2048, 7, 224), ("densenet121", 1024, 7, 224)],
)
def test_feature_map_of_the_published_size(name: str, channels: int, places: int, size: int) -> None:
    backbone = Backbone(name).eval()
    with torch.no_grad():
        features = backbone(torch.rand(1, 1, size, size))
    assert features.shape == (1, channels, places, places)
    assert backbone.channels == channels
    assert backbone.map_size(size, size) == (places, places)


@pytest.mark.parametrize("name", ["small", "resnet18", "densenet121"])
@pytest.mark.parametrize("size", [(64, 97), (65, 100), (127, 63)])
def test_map_size_is_the_size_of_the_map(name: str, size: tuple[int, int]) -> None:
    backbone = Backbone(name).eval()
    with torch.no_grad():
        assert backbone(torch.rand(1, 1, *size)).shape[2:] == backbone.map_size(*size)


@pytest.mark.parametrize("name", ["small", "resnet18", "resnet50", "densenet121"])
def test_group_norm_leaves_no_batch_norm_and_no_link_between_images(name: str) -> None:
    torch.manual_seed(0)
    backbone = Backbone(name, norm="group").train()
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in backbone.modules())
    assert any(isinstance(m, nn.GroupNorm) for m in backbone.modules())
    assert list(backbone.buffers()) == []
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x)[:1], backbone(x[:1]), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["small", "resnet18", "resnet50", "densenet121"])
def test_weights_stay_contiguous_for_the_wire(name: str) -> None:
    backbone = Backbone(name)
    backbone(torch.rand(2, 1, 64, 64)).sum().backward()
    assert all(p.is_contiguous() and p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize("arguments", [("resnet19", 1, "batch"), ("small", 1, "instance")])
def test_unknown_names_are_refused_with_those_there_are(arguments: tuple[str, int, str]) -> None:
    with pytest.raises(ValueError, match="there are:"):
        Backbone(*arguments)


# ---- weights trained elsewhere ----


def test_resnet18_is_torchvisions_with_torchvisions_weights(tmp_path: Path) -> None:
    state = resnet18_state()
    backbone = Backbone("resnet18", in_channels=3).eval()
    load_backbone_weights(backbone, saved(tmp_path, state))
    x = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), resnet18_features(state, x), atol=1e-4, rtol=1e-4)


def test_densenet121_is_torchvisions_with_torchvisions_weights(tmp_path: Path) -> None:
    state = densenet121_state()
    backbone = Backbone("densenet121", in_channels=3).eval()
    load_backbone_weights(backbone, saved(tmp_path, state))
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), densenet121_features(state, x), atol=1e-4, rtol=1e-4)


def test_a_grey_image_gets_the_answer_of_three_equal_channels(tmp_path: Path) -> None:
    state = resnet18_state()
    backbone = Backbone("resnet18", in_channels=1).eval()
    load_backbone_weights(backbone, saved(tmp_path, state))
    x = torch.rand(2, 1, 96, 96)
    with torch.no_grad():
        expected = resnet18_features(state, x.repeat(1, 3, 1, 1))
        torch.testing.assert_close(backbone(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("wrapping", ["bare", "state_dict", "model", "module", "own", "old", "safetensors"])
def test_wrappings_and_prefixes_do_not_matter(tmp_path: Path, wrapping: str) -> None:
    state = resnet18_state()
    path = tmp_path / "weights.pt"
    if wrapping == "safetensors":
        path = tmp_path / "weights.safetensors"
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        content: Any = {
            "bare": state,
            "state_dict": {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}},
            "model": {"model": state},
            "module": {f"module.{k}": v for k, v in state.items()},
            "own": {f"backbone.features.{k}": v for k, v in state.items()} | {"classifier.scale": torch.tensor(1.0)},
            "old": {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
        }[wrapping]
        saved(tmp_path, content)
    backbone = Backbone("resnet18")
    load_backbone_weights(backbone, path)
    own = backbone.features.state_dict()
    for name in ("layer1.0.conv1.weight", "layer4.0.downsample.1.running_var", "bn1.bias"):
        assert torch.equal(own[name], state[name])


def test_names_of_old_densenet_files_are_understood(tmp_path: Path) -> None:
    state = densenet121_state()
    numbered = re.compile(r"(norm|conv)([12])[.]")
    old = {"densenet121." + numbered.sub(r"\1.\2.", name): value for name, value in state.items()}
    assert "densenet121.features.denseblock1.denselayer1.norm.1.weight" in old
    backbone = Backbone("densenet121")
    load_backbone_weights(backbone, saved(tmp_path, old))
    own = backbone.features.state_dict()["denseblock3.denselayer11.layers.conv2.weight"]
    assert torch.equal(own, state["features.denseblock3.denselayer11.conv2.weight"])


def test_a_networks_own_weights_start_another(tmp_path: Path) -> None:
    trained = FedNCANet(3, "small", init_seed=5)
    path = str(saved(tmp_path, trained.state_dict()))
    for network in (FedNCANet(4, "small", init_weights=path), PooledNet(4, "small", init_weights=path)):
        for name, value in trained.backbone.state_dict().items():
            assert torch.equal(network.backbone.state_dict()[name], value)


def test_a_file_that_does_not_match_is_refused_with_a_list_and_nothing_is_loaded(tmp_path: Path) -> None:
    state = resnet18_state()
    del state["layer2.0.conv1.weight"]
    state["layer9.extra"] = torch.zeros(1)
    state["layer3.0.conv1.weight"] = torch.zeros(256, 128, 1, 1)
    path = saved(tmp_path, state)
    backbone = Backbone("resnet18")
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_backbone_weights(backbone, path)
    message = str(caught.value)
    assert "\n" not in message
    assert "missing: layer2.0.conv1.weight;" in message
    assert "unexpected: layer9.extra;" in message
    assert "of another shape: layer3.0.conv1.weight [256, 128, 1, 1] for [256, 128, 3, 3]" in message
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_long_lists_are_cut(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing: bn1.weight.* and 91 more"):
        # 20 convolutions and 20 norms of 4 tensors are 100, less the stem that is there: 99 missing, 8 shown.
        load_backbone_weights(Backbone("resnet18"), saved(tmp_path, {"conv1.weight": torch.zeros(64, 1, 7, 7)}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": {"a": 1}}, "holds no named tensors"),
        ([1, 2], "holds no named tensors"),
        ({"stem.weight": torch.zeros(1)}, r"no 'conv1.weight' in it, so it is no resnet18 \(it has: stem.weight\)"),
        (resnet18_state() | {"bn1.bias": torch.full((64,), float("nan"))}, "NaN or infinity in bn1.bias"),
        (nn.Linear(1, 1), "not readable as plain weights"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_backbone_weights(Backbone("resnet18"), saved(tmp_path, content))


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        FedNCANet(3, "small", init_weights=str(tmp_path / "none.pt"))
    (tmp_path / "broken.pt").write_bytes(b"not weights")
    with pytest.raises(UserError, match="not readable"):
        PooledNet(3, "small", init_weights=str(tmp_path / "broken.pt"))
