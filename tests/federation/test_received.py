"""Nothing that is received is unpickled: planted pickles run nothing, and are refused with a clear word."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.shareable import Shareable
from nvflare.app_common.decomposers import common_decomposers
from nvflare.app_common.decomposers.numpy_decomposers import NumpyArrayDecomposer
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_opt.pt.decomposers import TensorDecomposer
from nvflare.fuel.utils import fobs
from nvflare.fuel.utils.fobs.datum import DatumManager
from nvflare.fuel.utils.fobs.decomposers.via_downloader import ViaDownloaderDecomposer
from nvflare.fuel.utils.fobs.fobs import deserialize
from updates_support import SETTINGS, Aggregator, a_network, an_update

from nc_medfl.errors import UserError
from nc_medfl.federation.refusal import RefusedUpdate
from nc_medfl.labels import load_vocabulary
from nc_medfl.networks import load_backbone_weights
from nc_medfl.training.model import fingerprints, load_model, save_model
from tests_support import REPOSITORY


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.write_text, (self.target, "it ran")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture
def server() -> None:
    """A process that has registered what the server registers, and no more."""
    fobs.register(TensorDecomposer)
    fobs.register(NumpyArrayDecomposer)
    common_decomposers.register()


def test_the_bomb_works_where_pickle_is_used(mark: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.read_text() == "it ran"


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("decomposer", [TensorDecomposer, NumpyArrayDecomposer])
def test_a_pickle_in_place_of_the_bytes_of_a_tensor_is_not_run(
    decomposer: type[ViaDownloaderDecomposer], mark: Path
) -> None:
    with pytest.raises(Exception, match=r"[Hh]eader|pickle|safetensors|magic|load"):
        decomposer().native_recompose(pickle.dumps(Bomb(mark)))
    assert not mark.exists()


@pytest.mark.usefixtures("server")
def test_an_array_of_objects_is_not_run(mark: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        NumpyArrayDecomposer().native_recompose((tmp_path / "a.npy").read_bytes())
    assert not mark.exists()


@pytest.mark.usefixtures("server")
def test_a_shareable_with_a_torch_file_or_a_pickle_in_it_stays_bytes_and_is_refused(mark: Path) -> None:
    planted = pickle.dumps(Bomb(mark))
    honest = an_update("a")
    data = {**{name: value.numpy() for name, value in honest.params.items()}, "classifier.bias": planted}
    dxo = DXO(DataKind.WEIGHTS, data={"classifier.bias": data["classifier.bias"]}, meta={"nc_medfl.rows": planted})
    received = fobs.loads(fobs.dumps(dxo.to_shareable()))
    assert isinstance(received, Shareable)
    model = FLModelUtils.from_shareable(received)
    assert model.params["classifier.bias"] == planted
    model.params = {**honest.params, **model.params}
    model.meta = {**honest.meta, "client_name": "a"}
    with pytest.raises(RefusedUpdate, match="not an array"):
        Aggregator().accept_model(model)
    assert not mark.exists()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("type_name", "decomposer"),
    [
        ("subprocess.Popen", "nvflare.fuel.utils.fobs.decomposer.DataClassDecomposer"),
        ("pickle.Unpickler", "nvflare.fuel.utils.fobs.decomposer.DictDecomposer"),
        ("torch.storage.UntypedStorage", "test_received.Bomb"),
    ],
)
def test_a_message_that_names_a_class_of_its_own_is_refused(type_name: str, decomposer: str) -> None:
    message = msgpack.packb({"__fobs_type__": type_name, "__fobs_data__": {}, "__fobs_dc__": decomposer})
    with pytest.raises(ValueError, match=r"not allowed|must be registered"):
        deserialize(message, DatumManager())


@pytest.mark.parametrize("planted", ["whole", "inside"])
def test_a_model_file_with_a_pickle_in_it_is_refused(planted: str, mark: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    network = a_network(0)
    save_model(path, network.state_dict(), SETTINGS, rounds=1, prints=fingerprints(network, load_vocabulary("nih14")))
    content: Any = torch.load(path, weights_only=True)
    content["state_dict"]["classifier.bias"] = Bomb(mark)
    if planted == "whole":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match="not a model file of nc_medfl"):
        load_model(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_initial_weights_with_a_pickle_in_them_are_refused(name: str, mark: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    torch.save({"conv1.weight": Bomb(mark)}, path)
    with pytest.raises(UserError, match=str(path)):
        load_backbone_weights(a_network(0).backbone, path)
    assert not mark.exists()


def test_no_line_of_the_package_unpickles() -> None:
    wanted = {"load": "weights_only", "load_numpy": "allow_pickle"}
    for path in sorted((REPOSITORY / "nc_medfl").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                assert not {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"} & set(names), path
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            call = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if call == "torch.load":
                assert given.get(wanted["load"]) == "True", (path, node.lineno)
            if call in ("np.load", "numpy.load"):
                assert given.get(wanted["load_numpy"]) == "False", (path, node.lineno)
