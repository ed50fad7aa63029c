"""Startup kits: what is read from them, and what FLARE itself makes of what we write into them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from nvflare.apis.fl_exception import UnsafeComponentError
from nvflare.apis.workspace import Workspace
from nvflare.app_common.default_component_policy import DEFAULT_CLASS_ALLOW_LIST
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer
from nvflare.fuel.sec.authz import AuthzContext, Person
from nvflare.security.security import COMMAND_CATEGORIES, FLAuthorizer

from nc_medfl.errors import UserError
from nc_medfl.federation import kit as kits_module
from nc_medfl.federation.kit import open_kit, with_our_classes, with_own_storage, without_custom_code

EXECUTOR = "nc_medfl.federation.client.SiteExecutor"


def flare_allows(kit: Path, component: str) -> bool:
    """What FLARE's own authorizer says of a component in a job without code, for a site with this kit."""
    try:
        ComponentPathAuthorizer().authorize_component_config(
            {"path": component}, workspace=Workspace(root_dir=str(kit), site_name=kit.name)
        )
    except UnsafeComponentError:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "role", "host"),
    [
        ("st_mary", "client", "localhost"),
        ("server", "server", "localhost"),
        ("admin@example.org", "admin", "localhost"),
    ],
)
def test_a_kit_says_whose_it_is_and_where_the_server_is(provisioned: Path, name: str, role: str, host: str) -> None:
    kit = open_kit(provisioned / name)
    assert (kit.name, kit.role, kit.project) == (name, role, "cxr_federation")
    assert (kit.host, kit.port, kit.scheme, kit.security, kit.server_identity) == (host, 8002, "http", "mtls", "server")
    assert kit.certificate.is_file()
    assert kit.key.is_file()
    assert kit.authority.is_file()


def test_a_folder_that_is_no_kit_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a startup kit"):
        open_kit(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"servers": [], "client": {}}'])
def test_a_damaged_configuration_is_one_line(kits: Path, content: str) -> None:
    path = kits / "st_mary" / "startup" / "fed_client.json"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        open_kit(kits / "st_mary")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flare_builds_our_components_once_the_allow_list_is_set(kits: Path) -> None:
    kit = kits / "st_mary"
    default = json.loads((kit / "local" / "resources.json.default").read_text())
    assert not flare_allows(kit, EXECUTOR)
    (kit / "local" / "resources.json").write_text(json.dumps(with_our_classes(default)))
    assert flare_allows(kit, EXECUTOR)
    assert flare_allows(kit, DEFAULT_CLASS_ALLOW_LIST[0])
    assert not flare_allows(kit, "os.system")
    assert not flare_allows(kit, "nc_medfl_but_not_ours.Class")


def test_setting_the_allow_list_keeps_all_else_and_can_be_done_twice(provisioned: Path) -> None:
    default = json.loads((provisioned / "st_mary" / "local" / "resources.json.default").read_text())
    fresh = with_our_classes(default)
    assert fresh["class_allow_list"] == [*default["class_allow_list"], "nc_medfl."]
    assert {k: v for k, v in fresh.items() if k != "class_allow_list"} == {
        k: v for k, v in default.items() if k != "class_allow_list"
    }
    assert with_our_classes(fresh) == fresh


def test_without_an_allow_list_flares_own_stays_in_force() -> None:
    assert with_our_classes({})["class_allow_list"] == [*DEFAULT_CLASS_ALLOW_LIST, "nc_medfl."]


def decisions(policy: dict[str, Any], rights: list[str]) -> dict[tuple[str, str, str], bool]:
    """FLARE's word on every right, for a user of each role, of the site's organisation and of another."""
    authorizer = FLAuthorizer("st_mary", policy)
    out = {}
    for role in (*policy["permissions"], "stranger"):
        for org in ("st_mary", "elsewhere"):
            user = Person("someone", org, role)
            for right in rights:
                out[role, org, right] = authorizer.authorize(AuthzContext(right=right, user=user, submitter=user))[0]
    return out


def test_forbidding_custom_code_takes_that_right_from_everybody_and_no_other(provisioned: Path) -> None:
    default = json.loads((provisioned / "st_mary" / "local" / "authorization.json.default").read_text())
    # Every command that FLARE knows a category for, and the rights it asks for by name when a job comes.
    rights = [*COMMAND_CATEGORIES, "submit_job", "clone_job", "deploy_app", "server-predeployed-flwr", "byoc"]
    before, after = decisions(default, rights), decisions(without_custom_code(default), rights)
    assert before["project_admin", "elsewhere", "byoc"]
    assert not any(allowed for (_, _, right), allowed in after.items() if right == "byoc")
    assert {key for key in before if before[key] != after[key]} <= {key for key in before if key[2] == "byoc"}
    assert kits_module.custom_code_roles(default) == {"project_admin": "any", "lead": "any"}
    assert kits_module.custom_code_roles(without_custom_code(default)) == {}


def test_a_server_s_storage_leaves_tmp(provisioned: Path, tmp_path: Path) -> None:
    default = json.loads((provisioned / "server" / "local" / "resources.json.default").read_text())
    fresh = with_own_storage(default, tmp_path)
    assert "/tmp/nvflare" in json.dumps(default)
    assert json.dumps(fresh) == json.dumps(default).replace("/tmp/nvflare/", f"{tmp_path}/")


def test_a_kit_without_policies_says_so(kits: Path) -> None:
    shutil.rmtree(kits / "st_mary" / "local")
    with pytest.raises(UserError, match=r"neither resources\.json nor"):
        kits_module.policy_file(open_kit(kits / "st_mary"), "resources.json")
