"""Scores of maps from drawn hospitals to tables, with the mistakes that would give numbers of something else."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from nc_medfl.cli.main import app
from nc_medfl.config import JobSettings
from nc_medfl.data.prepare import PrepareSettings, prepare
from nc_medfl.data.synthetic import DEFAULT_HOSPITALS, make_hospitals
from nc_medfl.data.synthetic.drawing import draw_radiograph, draw_with_boxes
from nc_medfl.errors import UserError
from nc_medfl.inference.deletion import mean_rows, points_at
from nc_medfl.inference.looking import look_at
from nc_medfl.labels import load_vocabulary
from nc_medfl.networks import PooledNet
from nc_medfl.settings import parse
from nc_medfl.training.model import build_network, fingerprints, save_model


@pytest.mark.parametrize("finding", ["Mass", "Hernia", "Effusion"])
def test_a_box_holds_what_a_finding_changes_in_the_picture(finding: str) -> None:
    size = 192
    picture, boxes = draw_with_boxes([finding], np.random.default_rng(5), size=size, patient=3, severity=1.0)
    without = draw_radiograph([], np.random.default_rng(5), size=size, patient=3)
    change = np.abs(picture - without)
    rows, columns = np.nonzero(change > 0.5 * change.max())
    inside = np.zeros(len(rows), dtype=bool)
    for box in boxes:
        x, y = (columns + 0.5) / size, (rows + 0.5) / size
        inside |= (x >= box.x) & (x <= box.x + box.width) & (y >= box.y) & (y <= box.y + box.height)
    assert inside.mean() > 0.95
    assert sum(box.width * box.height for box in boxes) < 0.25


def test_a_map_that_is_the_same_everywhere_points_nowhere() -> None:
    assert points_at(np.zeros((3, 3)), 6) is None
    assert points_at(np.full((1, 1), 0.5), 6) is None


def test_an_interval_without_width_is_said_to_say_nothing() -> None:
    values = {"hit": np.array([[0.0], [0.0], [0.0]])}
    row = mean_rows(values, ["a", "b", "c"], ["x"], resamples=200, seed=0)[0]
    assert (row["low"], row["high"]) == (0.0, 0.0)
    assert "the interval says nothing" in row["reason"]


def test_grad_cam_warns_of_nothing_and_leaves_no_hook() -> None:
    network = PooledNet(2, "small", library="torch").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look_at(network, torch.rand(1, 1, 32, 32))
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals, one with oblong pixels, and a FedAvg model that was never trained."""
    folder = tmp_path_factory.mktemp("drawn")
    chosen = [DEFAULT_HOSPITALS[0], DEFAULT_HOSPITALS[-1]]
    for hospital in make_hospitals(
        folder / "hospitals", hospitals=chosen, patients_per_hospital=20, seed=1, size=96, workers=1
    ):
        prepare(
            PrepareSettings(
                source="dicom",
                images=hospital.images,
                labels=hospital.labels,
                label_map=hospital.label_map,
                out=folder / "sites" / hospital.name / "store",
                site=hospital.name,
                size=32,
                workers=1,
            )
        )
    words = {"method": "fedavg", "network": {"backbone": "small"}, "image_size": 32}
    settings = parse(JobSettings, words, where="test").for_sites()
    network = build_network(settings).eval()
    prints = fingerprints(network, load_vocabulary(settings.vocabulary))
    save_model(folder / "model_best.pt", network.state_dict(), settings, rounds=1, prints=prints)
    words_of_export = ["export-model", str(folder / "model_best.pt"), str(folder / "model"), "--size", "32"]
    run = CliRunner().invoke(app, words_of_export)
    assert run.exit_code == 0, run.output
    return folder


def _explain(drawn: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["explain", str(drawn / "model"), *words])


def _score(drawn: Path, out: Path, *hospitals: str, boxes: tuple[str, ...] = ()) -> Result:
    stores = [str(drawn / "sites" / name / "store") for name in hospitals]
    tables = [word for name in boxes for word in ("--boxes", str(drawn / "hospitals" / name / "boxes.csv"))]
    words = ["--score", "--split", "train", "--resamples", "100", "--out", str(out)]
    return _explain(drawn, *stores, *words, *tables)


def test_boxes_of_both_hospitals_are_pooled_and_chance_stands_beside_the_hits(drawn: Path, tmp_path: Path) -> None:
    names = ("st_mary", "harbour_clinic")
    run = _score(drawn, tmp_path, *names, boxes=names)
    assert run.exit_code == 0, run.output
    table = pd.read_csv(tmp_path / "pointing.csv").set_index(["metric", "finding"])
    hit, chance = table.loc[("pointing_hit", "macro")], table.loc[("pointing_chance", "macro")]
    assert hit["n_positive"] == chance["n_positive"] > 0
    assert 0 < chance["value"] < 0.5
    above = table.loc[("pointing_above_chance", "macro"), "value"]
    assert above == pytest.approx(hit["value"] - chance["value"], abs=1e-5)


def test_boxes_of_another_hospital_with_the_same_file_names_are_refused(drawn: Path, tmp_path: Path) -> None:
    run = _score(drawn, tmp_path, "harbour_clinic", boxes=("st_mary",))
    assert run.exit_code != 0
    assert "findings that their images" in str(run.exception)


def test_no_table_of_an_earlier_run_stays(drawn: Path, tmp_path: Path) -> None:
    assert _score(drawn, tmp_path, "st_mary", boxes=("st_mary",)).exit_code == 0
    assert (tmp_path / "pointing.csv").is_file()
    assert _score(drawn, tmp_path, "st_mary").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["deletion.csv"]


def test_a_dicom_file_is_explained_with_grad_cam_and_without_its_patient(drawn: Path, tmp_path: Path) -> None:
    import pydicom

    film = next((drawn / "hospitals" / "harbour_clinic" / "dicom").iterdir())
    run = _explain(drawn, str(film), "--findings", "Mass", "--out", str(tmp_path))
    assert run.exit_code == 0, run.output
    head = pydicom.dcmread(film, stop_before_pixels=True)
    for path in [tmp_path / "explain.html", *tmp_path.glob("maps/*.json")]:
        text = path.read_text()
        for secret in (str(head.PatientID), str(head.PatientName), str(head.SOPInstanceUID), film.stem):
            assert secret not in text
    assert [path.name for path in tmp_path.glob("overlays/*")] == ["image-0001-finding10-mean.png"]
    assert np.load(tmp_path / "maps" / "image-0001.npz")["maps"].min() >= 0


def test_a_store_prepared_otherwise_is_refused_both_ways(drawn: Path, tmp_path: Path) -> None:
    hospital = drawn / "hospitals" / "st_mary"
    words = {"label_map": hospital / "label_map.yaml", "site": "st_mary", "size": 48, "workers": 1}
    prepare(
        PrepareSettings(
            source="dicom",
            images=hospital / "dicom",
            labels=hospital / "labels.csv",
            out=tmp_path / "store",
            **words,  # type: ignore[arg-type]
        )
    )
    for extra in (["--score"], []):
        run = _explain(drawn, str(tmp_path / "store"), *extra, "--out", str(tmp_path / "out"))
        assert isinstance(run.exception, UserError)
        assert "prepared" in str(run.exception)
        assert not list((tmp_path / "out").glob("*/image-*"))
        assert not list((tmp_path / "out").glob("*.csv"))


def test_an_image_that_cannot_be_read_is_counted_by_its_outcome(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "junk.dcm").write_bytes(b"junk")
    run = _explain(drawn, str(tmp_path / "junk.dcm"), str(tmp_path / "gone.dcm"), "--out", str(tmp_path / "out"))
    assert "2 of 2" in str(run.exception)
    assert "not_dicom" in str(run.exception)
    assert "No image could be answered" in (tmp_path / "out" / "explain.html").read_text()


def test_rows_of_a_store_are_told_by_their_sample_id(drawn: Path, tmp_path: Path) -> None:
    store = drawn / "sites" / "st_mary" / "store"
    run = _explain(drawn, str(store), "--limit", "1", "--findings", "Mass", "--out", str(tmp_path))
    samples = pd.read_parquet(store / "manifest.parquet")["sample_id"]
    assert any(f"store {sample}" in run.output.replace("\n", "") for sample in samples)
    refused = _explain(drawn, str(store), "--findings", " , ", "--out", str(tmp_path))
    assert "--findings" in str(refused.exception)
