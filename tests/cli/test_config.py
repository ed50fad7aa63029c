"""``nc-medfl config``: every value with where it comes from, and schemas that agree with what is read."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from nc_medfl.benchmark.matrix import Matrix
from nc_medfl.cli.main import app
from nc_medfl.config import JobSettings, SiteConfig
from nc_medfl.errors import UserError
from nc_medfl.federation.arguments import from_arguments, to_arguments
from nc_medfl.labels import load_vocabulary
from nc_medfl.origins import origins
from nc_medfl.schemas import json_schema
from tests_support import REPOSITORY

JOB = """name: mine
rounds: 3
loss:
  margin: 0.4
"""


def shown(*arguments: str | Path) -> dict:
    done = CliRunner().invoke(app, ["config", "show", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def test_each_value_says_its_line_its_override_its_preset_or_the_default(job: Path) -> None:
    found = shown(job, "--set", "seed=7", "--set", "training.lr=1e-3", "--set", "seed=8")
    where = {name: (one["source"], one["value"], one["line"]) for name, one in found["origins"].items()}
    assert where["rounds"] == ("file", 3, 2)
    assert where["loss.margin"] == ("file", 0.4, 4)
    assert where["seed"] == ("set", 8, None)
    assert where["training.lr"] == ("set", 1e-3, None)
    assert where["aggregation.average_last"] == ("preset", 3, None)
    assert where["training.batch_size"] == ("default", 32, None)
    assert found["origins"]["seed"]["place"] == "--set seed=8"
    assert found["origins"]["rounds"]["place"] == f"{job / 'job.yaml'}, line 2"
    assert found["settings"]["loss"]["margin"] == 0.4


def test_the_published_settings_stand_over_the_file(job: Path) -> None:
    found = shown(job / "job.yaml", "--set", "paper_compat=true")["origins"]["loss.margin"]
    assert (found["source"], found["value"]) == ("published", 0.3)


def test_changed_shows_what_differs_alone(job: Path) -> None:
    assert set(shown(job, "--changed")["origins"]) == {"name", "rounds", "loss.margin"}


def _valid(schema: dict, content: object) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(content)]


@pytest.mark.parametrize(
    ("name", "model", "pattern"),
    [
        ("job", JobSettings, "jobs/*/job.yaml"),
        ("site", SiteConfig, "site_configs/*.yaml"),
        ("matrix", Matrix, "benchmarks/*/*.yaml"),
    ],
)
def test_the_schema_takes_the_files_that_come_with_us_and_no_unknown_key(name: str, model: type, pattern: str) -> None:
    done = CliRunner().invoke(app, ["config", "schema", name])
    schema = json.loads(done.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema == json_schema(model, schema["title"])
    paths = sorted(REPOSITORY.glob(pattern))
    assert paths
    for path in paths:
        content = yaml.safe_load(path.read_text())
        assert _valid(schema, content) == [], path
        assert _valid(schema, {**content, "nonsense": 1}) != []


def test_the_schema_says_what_keys_mean_and_which_values_they_take() -> None:
    schema = json_schema(JobSettings, "t")
    assert "resnet50" in schema["$defs"]["NetworkSettings"]["properties"]["backbone"]["enum"]
    assert schema["properties"]["rounds"]["description"] == "of the federation."
    assert _valid(schema, {"loss": {"negatives": "topkk"}}) != []
    assert _valid(schema, {"rounds": "many"}) != []


def test_a_schema_that_can_not_be_written_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    done = CliRunner().invoke(app, ["config", "schema", "job", "--out", str(tmp_path / "taken")])
    assert isinstance(done.exception, UserError)
    assert f"{tmp_path / 'taken'}: cannot be written" in str(done.exception)


def test_findings_of_the_users_own_go_into_the_job_and_need_no_file_there(job: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("name: own\nversion: 2\nfindings: [Edema, Mass, Rib fracture]\n")
    settings, found = origins(job / "job.yaml", [f"vocabulary={file}"])
    (job / "job.yaml").write_text(f"{JOB}vocabulary: own.yaml\n")  # from its own folder
    assert origins(job / "job.yaml")[0].vocabulary == settings.vocabulary
    file.unlink()
    sent = json.loads(json.dumps(to_arguments(settings)))
    assert load_vocabulary(from_arguments(sent).vocabulary).findings == ("Edema", "Mass", "Rib fracture")
    assert str(tmp_path) not in json.dumps(sent)
    [one] = [one for one in found if one.setting.startswith("vocabulary")]
    assert one.value == {"name": "own", "findings": ["Edema", "Mass", "Rib fracture"]}
    assert one.place == f"--set vocabulary={file}"
