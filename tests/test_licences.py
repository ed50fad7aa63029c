"""No dependency that a user gets is under a copyleft licence alone, by what each declares."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests_support import REPOSITORY

_spec = importlib.util.spec_from_file_location("licences", REPOSITORY / ".ci" / "licences.py")
assert _spec is not None
assert _spec.loader is not None
licences = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(licences)


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("MIT", False),
        ("GPL-3.0-or-later", True),
        ("AGPL-3.0-only", True),
        ("License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("LGPL-2.1-or-later", False),
        ("License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)", False),
        ("MIT OR GPL-2.0-only", False),
        ("GPL-2.0-only OR MIT", False),
        ("MIT AND GPL-2.0-only", True),
        ("file: GNU GENERAL PUBLIC LICENSE Version 3", True),
        ("MPL-2.0", False),
    ],
)
def test_which_licences_are_refused(text: str, bad: bool) -> None:
    assert licences.refused(text) is bad


def test_none_of_the_dependencies_is_under_one() -> None:
    names = licences.needed()
    direct = {canonicalize_name(Requirement(text).name) for text in importlib.metadata.requires("nc_medfl") or []}
    assert {"torch", "monai", "nvflare", "sympy"} <= names  # sympy: of torch, not of ours
    assert {"pytest", "hypothesis", "mkdocs-material"} & direct
    assert not {"pytest", "hypothesis", "mkdocs-material"} & names
    found = {}
    for name in names:
        try:
            meta = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = [meta.get("License-Expression") or "", *(meta.get_all("Classifier") or [])]
    bad = {name: texts for name, texts in found.items() if any(licences.refused(text) for text in texts)}
    assert bad == {}


def test_an_sbom_keeps_what_a_user_gets_and_links_between_them() -> None:
    parts = [{"bom-ref": f"{name}==1", "name": name, "version": "1"} for name in ("Torch", "sympy", "pytest")]
    sbom = {
        "bomFormat": "CycloneDX",
        "metadata": {"component": {"bom-ref": "root", "name": "x"}},
        "components": parts,
        "dependencies": [
            {"ref": "root", "dependsOn": ["Torch==1", "pytest==1"]},
            {"ref": "Torch==1", "dependsOn": ["sympy==1"]},
            {"ref": "pytest==1"},
            {"ref": "sympy==1"},
        ],
    }
    kept = licences.filtered(sbom, {"torch", "sympy"})
    assert [one["name"] for one in kept["components"]] == ["Torch", "sympy"]
    assert kept["dependencies"][0] == {"ref": "root", "dependsOn": ["Torch==1"]}
    assert {"ref": "pytest==1", "dependsOn": []} not in kept["dependencies"]
    assert kept["metadata"]["component"]["version"] == importlib.metadata.version("nc_medfl")
