"""A model made portable, exported and asked, as the commands do it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from nc_medfl.cli.main import app
from nc_medfl.config import JobSettings
from nc_medfl.data.store import open_store
from nc_medfl.errors import UserError
from nc_medfl.inference.description import NetworkDescription
from nc_medfl.labels import load_vocabulary
from nc_medfl.names import BACKBONES
from nc_medfl.settings import parse
from nc_medfl.training.model import build_network, fingerprints, save_model
from tests_support import tiny_site


def call(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, UserError):
        return 2, f"{result.output}{result.exception}"
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    """A site with a store, and a model file of weights that were never trained."""
    folder = tmp_path_factory.mktemp("run")
    tiny_site(folder / "sites", "alpha", seed=0, images=60)
    size = open_store(folder / "sites" / "alpha" / "store").size
    content = {"network": {"backbone": "small"}, "image_size": size}
    settings = parse(JobSettings, content, where="test").for_sites()
    network = build_network(settings).eval()
    torch.nn.init.normal_(network.classifier.bias)
    prints = fingerprints(network, load_vocabulary(settings.vocabulary))
    save_model(folder / "model_best.pt", network.state_dict(), settings, rounds=1, prints=prints)
    code, text = call("export-model", folder / "model_best.pt", folder / "model", "--sites", folder / "sites")
    assert code == 0, text
    return folder, network


def test_a_store_is_scored_as_the_network_scores_it(run: tuple[Path, torch.nn.Module]) -> None:
    folder, network = run
    store = open_store(folder / "sites" / "alpha" / "store")
    code, text = call("predict", folder / "model", store.folder, "--json")
    assert code == 0, text
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert len(lines) == len(store)
    images = torch.from_numpy(np.stack([store.images([k])[0] for k in range(len(store))]).astype(np.float32) / 255)
    with torch.inference_mode():
        expected = torch.sigmoid(network(images[:, None]).logits).numpy()
    found = {line["sample_id"]: [one["score"] for one in line["findings"].values()] for line in lines}
    ordered = np.array([found[sample] for sample in store.manifest["sample_id"]])
    np.testing.assert_allclose(ordered, expected, atol=1e-5)


def test_every_export_takes_any_number_of_images(run: tuple[Path, torch.nn.Module]) -> None:
    folder, network = run
    side = open_store(folder / "sites" / "alpha" / "store").size
    code, text = call(
        "export-model", folder / "model_best.pt", folder / "all", "--size", side, "--onnx", "--torchscript"
    )
    assert code == 0, text
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "all" / "model.onnx")
    script = torch.jit.load(folder / "all" / "model.ts")
    for n in (1, 3):
        image = torch.rand(n, 1, side, side)
        with torch.inference_mode():
            logits = network(image).logits.numpy()
            told = script(image)
        out = session.run(None, {"image": image.numpy()})[0]
        told = told[0] if isinstance(told, tuple) else told
        for scores in (out, told.numpy()):
            np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_monai_verifies_a_bundle_and_runs_it_on_a_picture(run: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    from monai.bundle import ConfigParser, verify_net_in_out

    folder, network = run
    store = open_store(folder / "sites" / "alpha" / "store")
    out = folder / "bundled"
    code, text = call("export-model", folder / "model_best.pt", out, "--size", store.size, "--bundle")
    assert code == 0, text
    configs = out / "bundle" / "configs"
    given = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    verify_net_in_out(net_id="network_def", bundle_root=str(out / "bundle"), device="cpu", **given)
    picture = store.images([0])[0]
    Image.fromarray(picture).save(tmp_path / "one.png")
    parser = ConfigParser()
    parser.read_config(given["config_file"])
    parser["bundle_root"], parser["image"] = str(out / "bundle"), str(tmp_path / "one.png")
    image = parser.get_parsed_content("preprocessing")(parser["image"])[None].as_tensor()
    with torch.inference_mode():
        told = parser.get_parsed_content("network_def")(image)
        expected = torch.sigmoid(network(torch.from_numpy(picture[None, None].astype(np.float32) / 255)).logits)
    np.testing.assert_allclose(told.numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "words",
    [
        ("export-model", "{run}/model", "{file}/out"),
        ("export-model", "{run}/model_best.pt", "{file}/out", "--size", 32),
        ("predict", "{run}/model", "{file}", "--dicom-sr", "{file}"),
        ("predict", "{run}/model", "{file}", "--dicom-sr", "{file}/out"),
        ("predict", "{run}/model", "{file}", "--out", "{file}/out.csv"),
        ("explain", "{run}/model", "{run}/sites/alpha/store", "--score", "--out", "{file}/out"),
    ],
)
def test_a_place_that_cannot_be_written_is_named_in_one_line(
    run: tuple[Path, torch.nn.Module], tmp_path: Path, words: tuple[object, ...]
) -> None:
    file = tmp_path / "afile"
    file.write_text("x")
    code, text = call(*(str(word).format(run=run[0], file=file) for word in words))
    assert code == 2, text
    assert f"{file}" in text
    assert "cannot be written" in text.splitlines()[-1]
    assert file.read_text() == "x"


def test_a_model_file_that_was_changed_or_holds_a_pickle_is_refused(run: tuple[Path, torch.nn.Module]) -> None:
    folder, _ = run
    store = folder / "sites" / "alpha" / "store"
    weights = folder / "model" / "model.safetensors"
    whole = weights.read_bytes()
    try:
        for wrong in (whole[:-8], whole[:-1] + bytes([whole[-1] ^ 1]), b"\x80\x04cos\nsystem\n."):
            weights.write_bytes(wrong)
            code, text = call("predict", folder / "model", store)
            assert code == 2
            assert "Traceback" not in text
    finally:
        weights.write_bytes(whole)


def test_a_model_file_of_before_frames_could_be_learned_is_read(run: tuple[Path, torch.nn.Module]) -> None:
    content = json.loads((run[0] / "model" / "model.json").read_text())
    assert not content["network"].pop("learned_frame", False)
    stated = content.pop("fingerprint")
    # As model.json was sealed then: SHA-256 of the rest, keys sorted.
    assert hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest() == stated


def test_a_file_that_is_no_image_costs_itself_alone(run: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    (tmp_path / "no.dcm").write_bytes(b"hello")
    code, text = call("predict", run[0] / "model", tmp_path / "no.dcm", run[0] / "sites" / "alpha" / "store", "--json")
    assert code != 0
    assert text.count('"probability"') >= 60 * 14


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_of_a_job_has_a_place_in_a_model_file(backbone: str) -> None:
    described = NetworkDescription(kind="FedNCANet", num_classes=3, backbone=backbone, in_channels=1, norm="batch")
    assert described.backbone == backbone


def test_no_sum_in_the_model_file_tells_a_count_that_it_leaves_out(
    run: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    folder, _ = run
    counts = {"one": {"Mass": 12, "Nodule": 3}, "two": {"Mass": 30, "Nodule": 20}}
    rows = []
    for finding in ("Mass", "Nodule"):
        counts.setdefault("pooled", {})[finding] = sum(counts[site][finding] for site in ("one", "two"))
    for site, own in counts.items():
        for finding, n in (*own.items(), ("macro", sum(own.values())), ("micro", sum(own.values()))):
            rows.append(f"r,fednca,{site},test,all,{finding},auc,0.7,0.6,0.8,{n},100,")
    head = "run,model,site,split,group,finding,metric,value,low,high,n_positive,n_annotated,reason"
    shutil.copy(folder / "model_best.pt", tmp_path / "model_best.pt")
    (tmp_path / "run.json").write_text('{"schema_version": 1, "outcome": "finished", "sites": ["one", "two"]}')
    (tmp_path / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    code, text = call("export-model", tmp_path, tmp_path / "model", "--size", 32)
    assert code == 0, text
    results = json.loads((tmp_path / "model" / "model.json").read_text())["results"]
    told = {(row["site"], row["finding"]): row["n_positive"] for row in results}
    assert (told["one", "Mass"], told["two", "Nodule"]) == (12, 20)
    assert told["one", "Nodule"] is None
    for place in (("pooled", "Nodule"), ("one", "micro"), ("one", "macro"), ("pooled", "micro"), ("pooled", "macro")):
        assert told[place] is None, place
    assert told["pooled", "Mass"] == 42
    assert told["two", "micro"] == 50
