"""Checks of what a kit's owner lets jobs do."""

from __future__ import annotations

from nvflare.security.security import FLAuthorizer

from nc_medfl.errors import UserError
from nc_medfl.federation.kit import (
    ALLOW_LIST,
    AUTHORIZATION,
    OUR_CLASSES,
    RESOURCES,
    Kit,
    allowed_classes,
    allows_our_classes,
    custom_code_roles,
    policy_file,
    read_json,
)
from nc_medfl.federation.preflight.result import Result, failed, ok, warning


def check_allow_list(kit: Kit) -> Result:
    """Whether FLARE builds nc_medfl's components here."""
    try:
        path = policy_file(kit, RESOURCES)
        resources = read_json(path)
        entries = allowed_classes(resources)
        allowed = allows_our_classes(resources)
    except (UserError, TypeError) as error:
        return failed(ALLOW_LIST, str(error), "")
    if not allowed:
        text = f"{path}: '{OUR_CLASSES}' does not stand in it, so FLARE refuses nc_medfl's jobs."
        return failed(ALLOW_LIST, text, f"Run: nc-medfl site init {kit.folder}")
    if "*" in entries:
        text = f"{path}: '*' lets a job build any class of any package."
        return warning(ALLOW_LIST, text, f"Replace it by '{OUR_CLASSES}' and what else is needed.")
    if resources.get("class_list_enforcement_mode", "enforce") != "enforce":
        text = f"{path}: has '{OUR_CLASSES}', but class_list_enforcement_mode only warns."
        return warning(ALLOW_LIST, text, "Set it to 'enforce'.")
    return ok(ALLOW_LIST, f"'{OUR_CLASSES}' stands in {path.name}")


def check_authorization(kit: Kit) -> Result:
    """What the site's policy says of code that comes with a job. FLARE would not start with a policy it can't read."""
    try:
        path = policy_file(kit, AUTHORIZATION)
        policy = read_json(path)
        FLAuthorizer("site", policy)
        roles = custom_code_roles(policy)
    except UserError as error:
        return failed("authorization", str(error), "")
    except (SyntaxError, TypeError, AttributeError) as error:
        return failed("authorization", f"{path}: FLARE can't read it ({error}).", "Take the '.default' file beside it.")
    if not roles:
        return ok("authorization", f"{path.name}: code that comes with a job is refused for every role")
    told = ", ".join(f"{role} ({condition})" for role, condition in roles.items())
    return ok("authorization", f"{path.name}: code that comes with a job is run for {told}")
