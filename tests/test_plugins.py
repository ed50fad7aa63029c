"""Plug-ins: what is found by an entry point, and what is told of one that can't be used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nc_medfl import plugins
from nc_medfl.config import JobSettings, load_job_settings
from nc_medfl.data.sources import get_source, source_names
from nc_medfl.errors import UserError
from nc_medfl.networks import Backbone
from nc_medfl.settings import parse
from nc_medfl.training.methods import get_method

MODULE = """
from collections import OrderedDict
from torch import nn
from nc_medfl.networks import BackboneSpec
from nc_medfl.training.methods import get_method
def layers(c): return OrderedDict(conv1=nn.Conv2d(c, 8, 3, stride=2, padding=1))
GOOD = BackboneSpec(layers, 8, "conv1.weight", "c")
WIDE = BackboneSpec(layers, 9, "conv1.weight", "c")
FLOOR = BackboneSpec(layers, 8, "conv1.weight", "f")
STEM = BackboneSpec(layers, 8, "conv0.weight", "c")
METHOD = get_method("fedavg")
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package with entry points, ``kind/name`` to what it names, where packages are installed."""

    def put(package: str, points: dict[str, str], module: str = MODULE) -> None:
        info = tmp_path / f"{package}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        lines = []
        for place, value in points.items():
            kind, name = place.split("/")
            lines += [f"[nc_medfl.{kind}]", f"{name} = {value}"]
        (info / "entry_points.txt").write_text("\n".join(lines))
        (tmp_path / f"{package}.py").write_text(module)
        plugins._installed.cache_clear()

    monkeypatch.syspath_prepend(tmp_path)
    yield put
    plugins._installed.cache_clear()
    for name in ("extra_one", "extra_two"):
        sys.modules.pop(name, None)


def test_a_plug_ins_names_are_taken_where_ours_are(install: Install, tmp_path: Path) -> None:
    install("extra_one", {"backbones/tiny": "extra_one:GOOD", "methods/mine": "extra_one:METHOD"})
    (tmp_path / "job.yaml").write_text("name: j\nmethod: mine\n")
    settings = load_job_settings(tmp_path / "job.yaml", ["network.backbone=tiny"])
    assert (settings.method, settings.network.backbone) == ("mine", "tiny")
    assert get_method("mine").name == "mine"
    assert Backbone("tiny", in_channels=3).map_size(9, 8) == (5, 4)
    assert "tiny" in JobSettings.model_json_schema()["$defs"]["NetworkSettings"]["properties"]["backbone"]["enum"]


def test_without_it_the_same_job_is_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"method: 'mine' is none of fednca, fedavg"):
        parse(JobSettings, {"method": "mine"}, where="job")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("extra_one:METHOD", "is a Method, and must be a BackboneSpec"),
        ("extra_one:NOTHING", "can't be imported .AttributeError"),
        ("extra_nowhere:X", "can't be imported .ModuleNotFoundError"),
        ("extra_one:WIDE", r"map of a 5 x 5 image is \[2, 8, 3, 3\], and by its 'channels' .* would be \[2, 9, 3, 3\]"),
        ("extra_one:FLOOR", r"would be \[2, 8, 2, 2\]"),
        ("extra_one:STEM", "no parameter 'conv0.weight'"),
    ],
)
def test_one_that_is_not_what_it_should_be_is_named_with_its_package(
    install: Install, value: str, message: str
) -> None:
    install("extra_one", {"backbones/tiny": value})
    with pytest.raises(UserError, match=message) as caught:
        Backbone("tiny")
    assert "'tiny'" in str(caught.value)


def test_a_name_of_ours_or_of_another_is_no_name_for_a_plug_in(install: Install) -> None:
    install("extra_one", {"backbones/tiny": "extra_one:GOOD", "backbones/Big-One": "extra_one:GOOD"})
    install("extra_two", {"backbones/tiny": "extra_two:GOOD"})
    with pytest.raises(UserError, match=r"extra_one 1.2 and extra_two 1.2.*Uninstall one"):
        Backbone("tiny")
    with pytest.raises(UserError, match="must be small letters"):
        Backbone("Big-One")


def test_ours_is_never_replaced(install: Install) -> None:
    install("extra_one", {"backbones/small": "extra_one:GOOD", "methods/fedavg": "extra_one:nothing"})
    assert Backbone("small").channels == 96
    assert get_method("fedavg").title == "FedAvg"
    assert plugins.names_with_plugins("backbones", ["small"]) == ["small"]


def test_an_unknown_source_is_told_with_the_nearest() -> None:
    assert "nih" in source_names()
    with pytest.raises(UserError, match=r"--source nhi: there are .* Did you mean 'nih'\?"):
        get_source("nhi")


def test_private_training_refuses_what_it_does_not_know_and_the_preflight_names_it(install: Install) -> None:
    from nc_medfl.federation.preflight.machine import check_packages
    from nc_medfl.training.private import obstacles

    install("extra_one", {"backbones/tiny": "extra_one:GOOD", "methods/mine": "extra_one:METHOD"})
    given = {"method": "mine", "network": {"backbone": "tiny", "norm": "group"}}
    assert {"method=fednca or fedavg", "a backbone of nc_medfl's own"} <= set(
        obstacles(parse(JobSettings, given, where=""))
    )
    assert "plug-ins: mine (extra_one 1.2), tiny (extra_one 1.2)" in check_packages(None).text
