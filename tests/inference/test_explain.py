"""Maps against torch's own module and a planted signal; deletion and pointing by hand; the command on a real model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from nc_medfl.cli.explain import names_of
from nc_medfl.cli.main import app
from nc_medfl.config import JobSettings
from nc_medfl.data.boxes import Box, box_mask, read_boxes, to_square
from nc_medfl.data.store import open_store
from nc_medfl.errors import UserError
from nc_medfl.inference.deletion import area_between, kept_tokens, mean_rows, points_at, ranks_of
from nc_medfl.inference.looking import feature_map, look_at, scores_without
from nc_medfl.labels import load_vocabulary
from nc_medfl.networks import FedNCANet, PooledNet
from nc_medfl.networks.query_attention import attend, look
from nc_medfl.settings import parse
from nc_medfl.training.model import build_network, fingerprints, save_model
from tests_support import tiny_site


@pytest.mark.parametrize("heads", [1, 4])
def test_weights_of_each_head_are_those_of_torchs_module_with_and_without_a_mask(heads: int) -> None:
    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(16, heads, batch_first=True, dtype=torch.float64)
    torch.nn.init.normal_(module.in_proj_bias)
    queries = torch.randn(3, 16, dtype=torch.float64)
    tokens = torch.randn(2, 9, 16, dtype=torch.float64)
    every = queries.expand(2, 3, 16)
    keep = torch.rand(2, 3, 9) > 0.4
    keep[..., 0] = True
    shown = tokens.transpose(1, 2)
    _, plain = module(every, tokens, tokens, need_weights=True, average_attn_weights=False)
    torch.testing.assert_close(look(module, queries, shown), plain)
    hidden = (~keep).repeat_interleave(heads, dim=0)
    out, masked = module(every, tokens, tokens, attn_mask=hidden, need_weights=True, average_attn_weights=False)
    features, weights = attend(module, queries, shown.reshape(2, 16, 3, 3), keep=keep)
    torch.testing.assert_close(weights, masked)
    torch.testing.assert_close(features, out)


def test_grad_cam_points_at_the_only_place_that_raises_the_score() -> None:
    network = PooledNet(2, "small", library="torch").eval()
    with torch.no_grad():
        network.head.output.weight.copy_(torch.stack([torch.ones(96), -torch.ones(96)]))
    image = torch.zeros(1, 1, 64, 64)
    image[..., 40:56, 8:24] = 3.0
    found = look_at(network, image)
    features = feature_map(network, image)[0]
    # Weights of the head are all one, so Grad-CAM is the sum of the feature map over channels, scaled.
    np.testing.assert_allclose(found.values[0, 0, 0], features.sum(dim=0).numpy() / 64, rtol=1e-4)
    row, column = points_at(found.mean[0, 0], 64)
    assert 36 <= row < 60
    assert 4 <= column < 28
    assert found.values[0, 0, 1].max() == 0  # the second class falls with every feature, and ReLU takes that away


def test_attention_points_at_a_planted_token() -> None:
    network = FedNCANet(2, "small", library="torch", num_heads=1).eval()
    attention = network.class_attention.attention
    features = torch.zeros(1, 96, 2, 2)
    with torch.no_grad():
        attention.in_proj_weight[: 2 * 96].copy_(torch.eye(96).repeat(2, 1))
        attention.in_proj_bias.zero_()
        features[0, :, 1, 0] = 50 * network.class_attention.class_queries[0]
        _, weights = network.class_attention(features)
    assert int(weights[0, 0, 0].argmax()) == 2
    assert float(weights[0, 0, 0, 2]) > 0.9


@pytest.mark.parametrize("build", [lambda: FedNCANet(3, "small", library="torch"), lambda: PooledNet(3, "small")])
def test_leaving_nothing_out_leaves_the_scores(build: object) -> None:
    network = build().eval()  # type: ignore[operator]
    image = torch.rand(2, 1, 64, 64)
    features = feature_map(network, image)
    found = scores_without(network, features, np.ones((2, 3, 64), dtype=bool))
    np.testing.assert_allclose(found, torch.sigmoid(network(image).logits).detach().numpy(), atol=1e-6)


def test_tokens_go_by_attention_and_one_stays() -> None:
    ranks = ranks_of(np.array([0.1, 0.4, 0.2, 0.3]))
    assert ranks.tolist() == [3, 0, 2, 1]
    assert kept_tokens(ranks, 0.0).tolist() == [True] * 4
    assert kept_tokens(ranks, 0.5).tolist() == [True, False, True, False]
    assert kept_tokens(ranks, 1.0).tolist() == [True, False, False, False]


def test_area_between_a_flat_line_and_a_falling_one_is_half() -> None:
    assert area_between(np.ones(11), 1 - np.arange(11) / 10) == pytest.approx(0.5)


def test_a_box_goes_through_the_square_as_its_picture_does() -> None:
    # 200 x 100 px into 64: 64 rows, 32 columns, 16 to the left.
    box = to_square(Box("Mass", 50.0, 100.0, 25.0, 50.0), 200, 100, (0, 16, 64, 32))
    assert (box.x, box.y, box.width, box.height) == (32.0, 32.0, 8.0, 16.0)


def test_a_hit_is_inside_with_the_upper_left_edge_and_without_the_lower_right() -> None:
    mask = box_mask([Box("Mass", 1.5, 1.5, 2.0, 1.0)], 5)
    assert np.argwhere(mask).tolist() == [[1, 1], [1, 2]]
    assert np.argwhere(box_mask([Box("Mass", 3.1, 2.1, 0.2, 0.2)], 5)).tolist() == [[2, 3]]
    assert points_at(np.array([[0, 0], [0, 1.0]]), 4) == (3, 3)
    assert points_at(np.array([[1.0, 0], [0, 0]]), 4) == (1, 1)  # the middle of a cell at the rim, as of any other
    assert points_at(np.eye(3), 9) == (1, 1)


def test_means_are_over_positives_and_the_macro_over_findings_that_have_some() -> None:
    values = {"hit": np.array([[1.0, np.nan, np.nan], [0.0, 1.0, np.nan]])}
    rows = {r["finding"]: r for r in mean_rows(values, ["a", "b"], ["x", "y", "z"], resamples=200, seed=0)}
    assert (rows["x"]["value"], rows["y"]["value"], rows["macro"]["value"]) == (0.5, 1.0, 0.75)
    assert np.isnan(rows["z"]["value"])
    assert rows["z"]["reason"] == "no image to measure on"
    assert (rows["x"]["low"], rows["x"]["high"]) == (0.0, 1.0)


def test_nihs_list_is_read_and_a_wrong_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\n1.png,Infiltrate,1.5,2,3,4,,,\n")
    assert read_boxes(path) == {"1.png": [Box("Infiltration", 1.5, 2.0, 3.0, 4.0)]}
    path.write_text("Image Index,Finding Label,x,y,w,h\n1.png,Mass,1,2,-3,4\n")
    with pytest.raises(UserError, match="line 2"):
        read_boxes(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("explain")
    store = tiny_site(folder / "sites", "alpha", seed=0, images=40)
    settings = parse(
        JobSettings, {"network": {"backbone": "small"}, "image_size": store.size}, where="test"
    ).for_sites()
    network = build_network(settings).eval()
    save_model(
        folder / "model_best.pt",
        network.state_dict(),
        settings,
        rounds=1,
        prints=fingerprints(network, load_vocabulary(settings.vocabulary)),
    )
    run = CliRunner().invoke(
        app,
        ["export-model", str(folder / "model_best.pt"), str(folder / "model"), "--sites", str(folder / "sites")],
    )
    assert run.exit_code == 0, run.output
    return folder / "model", folder / "sites" / "alpha" / "store"


def test_the_command_writes_page_overlays_and_raw_maps_without_paths(model: tuple[Path, Path], tmp_path: Path) -> None:
    words = ["explain", str(model[0]), str(model[1]), "--findings", "Mass,Hernia", "--limit", "2"]
    run = CliRunner().invoke(app, [*words, "--out", str(tmp_path)])
    assert run.exit_code == 0, run.output
    page = (tmp_path / "explain.html").read_text()
    assert page.count("Image 2") == 2
    assert str(model[1]) not in page
    assert not any(key in page for key in open_store(model[1]).manifest["patient_key"])
    assert "://" not in page
    about = json.loads((tmp_path / "maps" / "image-0001.json").read_text())
    maps = np.load(tmp_path / "maps" / "image-0001.npz")
    assert list(maps["maps"].shape) == about["arrays"]["maps"]["shape"]
    np.testing.assert_allclose(maps["mean"].sum(axis=(1, 2)), 1.0, atol=1e-5)
    assert len(list((tmp_path / "overlays").glob("*.png"))) == 2 * 2 * 5


def test_the_command_scores_a_store(model: tuple[Path, Path], tmp_path: Path) -> None:
    run = CliRunner().invoke(
        app, ["explain", str(model[0]), str(model[1]), "--score", "--resamples", "100", "--out", str(tmp_path)]
    )
    assert run.exit_code == 0, run.output
    table = pd.read_csv(tmp_path / "deletion.csv").set_index(["finding", "metric"])
    whole = table.loc[("macro", "score_without_most@0.0"), "value"]
    assert whole == pytest.approx(table.loc[("macro", "score_without_least@0.0"), "value"])


def test_hostile_finding_names_show_as_text() -> None:
    from nc_medfl.inference.scoring import FindingAnswer
    from nc_medfl.pages import environment

    hostile = "<script>alert(1)</script>"
    found = FindingAnswer(hostile, 0.5, 0.5, None, None, "")
    image = {
        "number": 1,
        "radiograph": "",
        "unlike": hostile,
        "findings": [{"answer": found, "pictures": [], "empty": 0}],
    }
    described = {"name": hostile, "method": "fedavg"}
    page = (
        environment("nc_medfl.inference")
        .get_template("explain.html.j2")
        .render(images=[image], model=described, kind="PooledNet")
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 3


def test_findings_are_named_between_commas_that_may_stand_in_a_name_too() -> None:
    known = ("Mass", "Mass, left", "Edema")
    assert names_of("Mass, left,Edema, Mass", known) == ["Mass, left", "Edema", "Mass"]
    assert names_of(" , Edema ,, Nodule\xa0,", known) == ["Edema", "Nodule"]
    assert names_of("", known) == []
