"""Sdist and wheel, installed where there is no repository: templates, a run, and another package's extension."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nc_medfl.errors import UserError
from nc_medfl.inference.model_file import read_model
from tests_support import REPOSITORY, tiny_site

#: Of the repository, what is built from.
BUILT_FROM = ("nc_medfl", "jobs", "site_configs", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
EXTENSION = REPOSITORY / "docs" / "examples" / "extension"

pytestmark = pytest.mark.integration


def _build(folder: Path, what: str, out: Path) -> Path:
    code = f"import sys, setuptools.build_meta as b; print(b.build_{what}(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(out)], cwd=folder, check=True, capture_output=True, timeout=300)
    [made] = out.glob("*.whl" if what == "wheel" else "*.tar.gz")
    return made


def _copied(names: tuple[str, ...], source: Path, out: Path) -> Path:
    out.mkdir(parents=True)
    for name in names:
        if (source / name).is_dir():
            shutil.copytree(source / name, out / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source / name, out / name)
    return out


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an environment of its own: the wheel, built from the sdist, and the extension's."""
    home = tmp_path_factory.mktemp("release")
    sdist = _build(_copied(BUILT_FROM, REPOSITORY, home / "repository"), "sdist", home)
    shutil.unpack_archive(sdist, home / "unpacked", filter="data")
    [unpacked] = (home / "unpacked").iterdir()
    wheels = [_build(unpacked, "wheel", home / "wheels")]
    extension = _copied(("cxr_extension", "pyproject.toml"), EXTENSION, home / "extension")
    wheels.append(_build(extension, "wheel", home / "extension-wheels"))
    venv.create(home / "venv", with_pip=False, symlinks=True)
    python = home / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*install, *map(str, wheels)], check=True, timeout=300)
    # Everything but the two packages comes from the environment of the tests: gigabytes that need no second copy.
    others = [path for path in sys.path if path.endswith("site-packages")]
    paths = sysconfig.get_path("purelib", vars={"base": str(home / "venv"), "platbase": str(home / "venv")})
    Path(paths, "others.pth").write_text("\n".join(others))
    return home


def nc_medfl(home: Path, *arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the installed command in a folder that has nothing of the repository."""
    work = home / "work"
    work.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [str(home / "venv" / "bin" / "nc-medfl"), *map(str, arguments)]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == code, done.stderr[-2000:]
    return done


def test_version_and_code_are_the_wheels(home: Path) -> None:
    from nc_medfl import __version__

    [wheel] = (home / "wheels").iterdir()
    assert wheel.name == f"nc_medfl-{__version__}-py3-none-any.whl"
    assert nc_medfl(home, "--version").stdout.strip() == f"nc_medfl {__version__}"
    where = subprocess.run(
        [home / "venv" / "bin" / "python", "-c", "import nc_medfl; print(nc_medfl.__file__)"],
        cwd=home, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(home / "venv")


def test_init_writes_the_repositorys_jobs_and_sites_and_replaces_nothing(home: Path) -> None:
    nc_medfl(home, "init", "first")
    made = home / "work" / "first"
    tracked = [
        path.relative_to(REPOSITORY)
        for name in ("jobs", "site_configs")
        for path in (REPOSITORY / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file()) == sorted(tracked)
    for path in tracked:
        assert (made / path).read_bytes() == (REPOSITORY / path).read_bytes()
    (made / "jobs" / "fednca_cxr" / "job.yaml").write_text("name: changed\n")
    said = nc_medfl(home, "init", "first", code=2).stderr
    assert "is there already" in said
    assert (made / "jobs" / "fednca_cxr" / "job.yaml").read_text() == "name: changed\n"


def test_the_extensions_source_prepares_a_store(home: Path) -> None:
    pictures = home / "pictures"
    pictures.mkdir()
    draw = np.random.default_rng(0)
    rows = [("image", "patient", "finding", "present")]
    for number in range(12):
        Image.fromarray(draw.integers(0, 255, (160, 140), dtype=np.uint8)).save(pictures / f"{number}.png")
        rows.append((f"{number}.png", f"p{number}", "Effusion", str(number % 2)))
        if number < 6:
            rows.append((f"{number}.png", f"p{number}", "Mass", "1"))
    with (home / "long.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    choices = ("--source", "long_table", "--images", pictures, "--labels", home / "long.csv", "--out", home / "store")
    told = json.loads(nc_medfl(home, "prepare", *choices, "--size", "32", "--workers", "1", "--json").stdout)
    assert told["images"] == 12
    import pandas as pd

    manifest = pd.concat([pd.read_parquet(path) for path in (home / "store").rglob("manifest.parquet")])
    assert (manifest["label:Effusion"].sum(), manifest["label:Mass"].sum()) == (6, 6)
    assert manifest["label:Mass"].isna().sum() == 6  # nobody said
    assert "long_table: pictures and a table" in nc_medfl(home, "labels").stdout


def test_a_federation_runs_from_the_wheel_with_the_extensions_method_and_backbone(home: Path) -> None:
    nc_medfl(home, "init", "federation")
    sites = home / "sites"
    sites.mkdir()
    for seed, name in enumerate(("a", "b")):
        tiny_site(sites, name, seed=seed, images=20)
    changes = ("method=fedfocal", "network.backbone=narrow", "rounds=1", "image_size=32", "evaluation.resamples=20")
    told = json.loads(
        nc_medfl(home, "config", "show", "federation/jobs/fedavg_cxr", "--set", changes[0], "--json").stdout
    )
    assert told["settings"]["method"] == "fedfocal"
    options = [word for change in changes for word in ("--set", change)]
    nc_medfl(home, "run", "federation/jobs/fedavg_cxr", "--sites", sites, "--out", "run", *options, "--quiet")
    record = json.loads((home / "work" / "run" / "run.json").read_text())
    assert (record["outcome"], record["method"]) == ("finished", "fedfocal")
    assert record["settings"]["network"]["backbone"] == "narrow"
    assert (home / "work" / "run" / "report.html").is_file()
    # The model file needs the extension where it is read, and says so.
    model, picture = home / "work" / "run" / "model", next((home / "pictures").glob("*.png"))
    answer = json.loads(nc_medfl(home, "predict", model, picture, "--json").stdout)
    assert all(0 <= one["probability"] <= 1 for one in answer["findings"].values())
    with pytest.raises(UserError, match=r"network.backbone: 'narrow' is none of small"):
        read_model(model)
