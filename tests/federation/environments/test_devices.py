"""Devices dealt out to the sites of one machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nc_medfl.config import SiteConfig, load_site_config
from nc_medfl.errors import UserError
from nc_medfl.federation.environments.devices import check_gpus, deal_out, parse_gpus, settle_sites
from nc_medfl.federation.site import site_files
from tests_support import tiny_site


def sites_of(**devices: str) -> dict[str, SiteConfig]:
    return {name: SiteConfig(name=name, store=Path("store"), device=device) for name, device in devices.items()}


def test_sites_take_devices_in_turn_by_name() -> None:
    dealt = deal_out(sites_of(c="auto", a="auto", b="cuda:5", d="cuda"), (0, 3))
    assert {name: config.device for name, config in dealt.items()} == {
        "a": "cuda:0",
        "b": "cuda:3",
        "c": "cuda:0",
        "d": "cuda:3",
    }


def test_a_site_on_the_cpu_stays_there_and_takes_no_turn() -> None:
    dealt = deal_out(sites_of(a="auto", b="cpu", c="auto"), (0, 1))
    assert [dealt[name].device for name in "abc"] == ["cuda:0", "cpu", "cuda:1"]


@given(n_sites=st.integers(1, 20), gpus=st.sets(st.integers(0, 9), min_size=1))
def test_no_device_has_two_sites_more_than_another(n_sites: int, gpus: set[int]) -> None:
    sites = sites_of(**{f"s{i:02d}": "auto" for i in range(n_sites)})
    if len(gpus) > n_sites:
        with pytest.raises(UserError, match="can't use"):
            deal_out(sites, sorted(gpus))
        return
    taken = [config.device for config in deal_out(sites, sorted(gpus)).values()]
    counts = [taken.count(f"cuda:{gpu}") for gpu in gpus]
    assert sum(counts) == n_sites
    assert max(counts) - min(counts) <= 1


def test_without_devices_the_sites_keep_their_settings() -> None:
    sites = sites_of(a="cuda:1", b="auto")
    assert deal_out(sites, ()) == sites


def test_a_site_with_several_devices_of_its_own_is_not_overruled() -> None:
    site = SiteConfig(name="a", store=Path("store"), devices=("cuda:0", "cuda:1"))
    with pytest.raises(UserError, match="site a: it trains on several devices of its own"):
        deal_out({"a": site}, (0,))


@pytest.mark.parametrize("text", ["", "0,", "a", "0,0", "-1", "0;1", "0,00"])
def test_what_is_no_list_of_devices_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not a list of device numbers"):
        parse_gpus(text)


@pytest.mark.parametrize(("available", "said"), [(0, "no GPU that PyTorch can use"), (2, "devices 0 to 1")])
def test_a_device_that_is_not_there_is_named(available: int, said: str) -> None:
    with pytest.raises(UserError, match=f"no device 2; this machine has {said}"):
        check_gpus((0, 2) if available else (2,), available)


def test_settled_sites_are_found_with_their_stores(tmp_path: Path) -> None:
    for name in ("alpha", "beta"):
        tiny_site(tmp_path / "sites", name, images=8)
    folder = settle_sites(tmp_path / "sites", tmp_path / "settled", (1,))
    configs = {name: load_site_config(path) for name, path in site_files(folder).items()}
    assert {name: config.device for name, config in configs.items()} == {"alpha": "cuda:1", "beta": "cuda:1"}
    assert all((config.store / "prepare.json").is_file() for config in configs.values())
