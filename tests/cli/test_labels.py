"""``nc-medfl labels``, as a user types it."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from nc_medfl.cli.labels import labels
from nc_medfl.errors import UserError
from nc_medfl.labels import available_label_maps, available_vocabularies

TABLE = "file,pid,Effusion,Mass,Fracture\nMARKER1.dcm,MARKERp,1,-1,1\nMARKER2.dcm,MARKERq,0,,0\n"


@pytest.fixture
def call():
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(labels)

    def invoke(*words: object):
        return CliRunner().invoke(app, [str(word) for word in words])

    return invoke


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(TABLE)
    return path


def test_vocabularies_maps_and_sources_are_listed(call):
    result = call()
    assert result.exit_code == 0
    assert all(name in result.stdout for name in (*available_vocabularies(), *available_label_maps(), "medmnist"))
    payload = json.loads(call("--json").stdout)
    assert [m["name"] for m in payload["maps"]] == available_label_maps()
    assert all(m["source"] and m["version"] for m in payload["maps"])


def test_a_map_is_printed_as_it_is_written(call, tmp_path):
    result = call("--show", "padchest")
    assert "hydropneumothorax: [Effusion, Pneumothorax]" in result.stdout
    assert json.loads(call("--show", "padchest", "--json").stdout)["vocabulary"] == "nih14"
    with pytest.raises(UserError, match="Give a file, or one of"):
        raise call("--show", tmp_path / "none").exception


def test_a_table_is_tried_without_writing_and_without_naming_anybody(call, table, tmp_path):
    words = (table, "--ignore-column", "Fracture", "--uncertain", "Mass=ones")
    told = call(*words)
    assert told.exit_code == 0, told.output
    payload = json.loads(call(*words, "--json").stdout)
    by_name = {f["finding"]: f for f in payload["findings"]}
    assert (by_name["Effusion"]["positive"], by_name["Effusion"]["negative"]) == (1, 1)
    assert (by_name["Mass"]["uncertain"], by_name["Mass"]["blank"]) == (1, 1)
    assert (by_name["Mass"]["uncertain_becomes"], by_name["Hernia"]["how"]) == ("ones", "unknown")
    assert payload["unmapped_columns"] == ["pid"]
    assert "ones for Mass" in told.stdout
    assert "MARKER" not in told.stdout + json.dumps(payload)
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_what_a_map_does_not_know_is_shown_and_not_refused(call, table):
    table.write_text(TABLE.replace("-1", "?").replace(",0,,0", ",MARKERname,,0"))
    result = call(table, "--ignore-column", "Fracture")
    assert result.exit_code == 0
    assert "'prepare' will refuse them" in result.stdout
    assert "?" in result.stdout
    assert "MARKER" not in result.stdout


def test_a_map_in_a_site_config_is_tried(call, table, tmp_path):
    config = tmp_path / "site.yaml"
    config.write_text(
        "name: st_mary\nstore: store\nlabel_map:\n  vocabulary: nih14\n  image_column: file\n"
        "  findings: {Mass: Nodule}\n"
    )
    payload = json.loads(call(table, "--site-config", config, "--json").stdout)
    assert payload["label_map"] == "st_mary 1"
    assert {f["finding"]: f["sources"] for f in payload["findings"]}["Nodule"] == ["Mass"]
    # The name of a map of the package will do too; and the command line goes first.
    config.write_text("name: st_mary\nstore: store\nlabel_map: nih\n")
    assert "'Image Index'" in str(call(table, "--site-config", config).exception)
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nvocabulary: nih14\nimage_column: file\nfindings: {Mass: Mass}\n")
    assert json.loads(call(table, "--site-config", config, "--label-map", own, "--json").stdout)["label_map"] == "own 1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--source", "xray"), "--source xray: there are dicom, folder, nih"),
        (("--uncertain", "maybe"), "ignore, zeros and ones"),
        (("--vocabulary", "nih15"), "no vocabulary 'nih15'"),
        ((), "'Fracture' looks like a finding"),
        (("--show", "nih"), "Leave one of the two out"),
    ],
)
def test_mistakes_are_user_errors(call, table, words, message):
    result = call(table, *words)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_prepare_takes_map_name_store_and_salt_from_a_site_config(tmp_path, shared_data):
    from nc_medfl.cli.prepare import prepare
    from nc_medfl.data.store import open_store

    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(prepare)
    (tmp_path / "few").mkdir()
    originals = sorted((shared_data / "nih1000" / "images").iterdir())[:6]
    rows = ["bild,wer,erguss"]
    for number, original in enumerate(originals):
        (tmp_path / "few" / original.name).write_bytes(original.read_bytes())
        rows.append(f"{original.name},{number},{'ja' if number % 2 else 'nein'}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    (tmp_path / "salt").write_bytes(b"0123456789abcdef")
    (tmp_path / "site.yaml").write_text(
        "name: st_mary\nstore: prepared\nsalt_file: salt\nlabel_map:\n  vocabulary: nih14\n"
        "  image_column: bild\n  patient_column: wer\n  findings: {erguss: Effusion}\n"
        "  values: {positive: [ja], negative: [nein]}\n"
    )
    words = ["--source", "folder", "--images", "few", "--labels", "t.csv", "--site-config", "site.yaml", "--size", "64"]
    result = CliRunner().invoke(app, [str(tmp_path / w) if (tmp_path / w).exists() else w for w in words])
    assert result.exit_code == 0, result.output
    store = open_store(tmp_path / "prepared")
    assert store.manifest["label:Effusion"].sum() == 3
    assert set(store.manifest["site"]) == {"st_mary"}
    assert store.info["settings"]["label_map"] == "st_mary 1"
    assert not (tmp_path / "prepared" / "site_private" / "salt.bin").exists()
    assert "note: t.csv has no column for 13 of 14 findings" in result.stderr
