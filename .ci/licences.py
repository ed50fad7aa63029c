"""Keep of an SBOM what a user of the package gets, list its licences, and fail for a copyleft one.

    python .ci/licences.py ALL.json SBOM.json LICENCES.csv

ALL.json is a CycloneDX file of the whole environment, with tools for building and testing; run by its own Python.
"""

from __future__ import annotations

import csv
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PACKAGE = "nc_medfl"
#: What a hospital or researcher may install; ``dev`` and ``docs`` stay out.
EXTRAS = ("", "export", "dask", "dp", "tracking")
#: Of which a program that links them must be, too. The lesser GPL and MPL ask that of changes to themselves alone.
COPYLEFT = re.compile(r"\bA?GPL|(?<!Lesser )General Public License", re.IGNORECASE)


def needed(package: str = PACKAGE, extras: Iterable[str] = EXTRAS) -> set[str]:
    """Names of the packages that one needs here, directly or not, without itself."""
    waiting, seen = [(package, frozenset(extras))], set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            texts = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # for another system or Python
            continue
        waiting += [
            (canonicalize_name(one.name), frozenset(one.extras))
            for one in map(Requirement, texts)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in {"", *extras})
        ]
    return {name for name, _ in seen} - {package}


def licence(component: dict[str, Any]) -> str:
    """What a package declares: an SPDX expression or name, else its classifiers, else how its licence file begins."""
    told = []
    for one in component.get("licenses", []):
        inner = one.get("license", {})
        name = one.get("expression") or inner.get("id") or inner.get("name") or ""
        told.append(" ".join(str(name).split())[:80])
    return "; ".join(dict.fromkeys(filter(None, told))) or _of_file(component["name"])


def _of_file(name: str) -> str:
    files = importlib.metadata.files(name) or []
    for file in files:
        if re.match(r"(LICEN[CS]E|COPYING)", file.name, re.IGNORECASE):
            lines = [
                line.strip() for line in file.locate().read_text(encoding="utf-8-sig", errors="replace").splitlines()
            ]
            return f"file: {' '.join(line for line in lines if line)[:80]}"
    return str(importlib.metadata.metadata(name).get("License") or "not declared")[:80]


def refused(text: str) -> bool:
    """Whether a package can be had under a copyleft licence alone.

    Example:
        >>> refused("GPL-3.0-only"), refused("GPL-3.0-only OR MIT"), refused("LGPL-2.1-only")
        (True, False, False)
    """
    return all(COPYLEFT.search(part) for part in re.split(r"\bOR\b", text))


def filtered(sbom: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """The SBOM of the packages of these names, with the package itself at its root."""
    root = sbom["metadata"]["component"]
    root |= {"name": PACKAGE, "version": importlib.metadata.version(PACKAGE)}
    kept = {one["bom-ref"]: one for one in sbom["components"] if canonicalize_name(one["name"]) in names}
    links = [
        {"ref": one["ref"], "dependsOn": sorted(set(one.get("dependsOn", [])) & set(kept))}
        for one in sbom["dependencies"]
        if one["ref"] in {root["bom-ref"], *kept}
    ]
    return {**sbom, "components": list(kept.values()), "dependencies": links}


def main(whole: Path, out: Path, table: Path) -> int:
    """Write both files; 1 if a licence is refused."""
    sbom = json.loads(whole.read_text(encoding="utf-8"))
    kept = filtered(sbom, needed())
    out.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    rows = sorted((one["name"], one.get("version", ""), licence(one)) for one in kept["components"])
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("package", "version", "licence"), *rows])
    bad = [f"{name} {version}: {text}" for name, version, text in rows if refused(text)]
    sys.stderr.write("".join(f"copyleft: {line}\n" for line in bad))
    sys.stdout.write(f"{len(rows)} packages: {out}, {table}\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:4])))
