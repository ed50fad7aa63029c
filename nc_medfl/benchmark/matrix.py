"""What a bench runs: a YAML file of data sets, partitions, methods and seeds (docs/how-to/bench.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from nc_medfl.benchmark.partition_names import named_settings, partition_by_name
from nc_medfl.benchmark.search_space import Search
from nc_medfl.config import JobSettings
from nc_medfl.errors import UserError
from nc_medfl.mistakes import Place, nearest, setting_names, unknown_key, unknown_value
from nc_medfl.presets import merged, published
from nc_medfl.settings import Settings, parse, read_yaml
from nc_medfl.yaml_file import read_yaml_file

#: Names of data sets, partitions and methods, which are folders and entries of tables too.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$")]
Json = dict[str, Any]
_REGIMES = ("federated", "local", "pooled")
#: What a mistake is told of where no file is known.
_MATRIX = Place("matrix")


class Expected(Settings):
    """What a data set holds, for ``--estimate`` where it isn't at hand.

    Attributes:
        train: images for training; ``val`` and ``test`` likewise.
        findings: number of classes.
        shape: channels, height and width.
        sites: where the partition is ``natural``.
    """

    train: int = Field(ge=1)
    val: int = Field(ge=1)
    test: int = Field(ge=1)
    findings: int = Field(ge=2)
    shape: tuple[int, int, int]
    sites: int | None = Field(default=None, ge=2)


class DataSet(Settings):
    """What data sets of every kind have.

    Attributes:
        expected: what it holds, for ``--estimate`` alone.
    """

    expected: Expected | None = None


class CompositeData(DataSet):
    """Two pictures of different classes on one canvas (METHOD section 5).

    Attributes:
        path: a folder or a zip of class folders; a relative path counts from the matrix file.
        size: side of each picture in pixels; the canvas is twice as wide.
        train: canvases for training; ``val`` and ``test`` likewise.
        two: share of the canvases with two pictures.
        fractions: of the pictures for train, val and test, where the folders don't say.
    """

    kind: Literal["composite"]
    path: Path
    size: int = Field(default=32, ge=8, le=512)
    train: int = Field(default=4000, ge=2)
    val: int = Field(default=1000, ge=2)
    test: int = Field(default=2000, ge=2)
    two: float = Field(default=0.5, ge=0, le=1)
    fractions: tuple[float, float, float] = (0.6, 0.15, 0.25)


class StoreData(DataSet):
    """A prepared store, dealt out by the partition.

    Attributes:
        path: the ``--out`` of ``nc-medfl prepare``, or its ``store`` folder.
    """

    kind: Literal["store"]
    path: Path


class SitesData(DataSet):
    """Stores of several hospitals; the partition ``natural`` leaves them as they are, others deal their pool out.

    Attributes:
        path: a folder of sites, each ``NAME/site.yaml`` with a store, as ``nc-medfl partition`` and ``demo`` write it.
    """

    kind: Literal["sites"]
    path: Path


class SyntheticData(DataSet):
    """The synthetic hospitals of ``nc-medfl demo``, drawn and prepared afresh for each seed.

    Attributes:
        sites: number of hospitals.
        patients: of each.
        size: side of the stored images in pixels.
    """

    kind: Literal["synthetic"]
    sites: int = Field(default=4, ge=2)
    patients: int = Field(default=120, ge=10)
    size: int = Field(default=64, ge=32)


class MedMnistData(DataSet):
    """An npz file of MedMNIST, multi-label (ChestMNIST) or with one class an image (DermaMNIST).

    Attributes:
        path: the npz file, with its published splits.
        composite: put two images of different classes on one canvas, for data of one class an image.
        train: images (or canvases) for training, at most; None takes all. ``val`` and ``test`` likewise.
        two: share of the canvases with two images.
    """

    kind: Literal["medmnist"]
    path: Path
    composite: bool = False
    train: int | None = Field(default=None, ge=2)
    val: int | None = Field(default=None, ge=2)
    test: int | None = Field(default=None, ge=2)
    two: float = Field(default=0.5, ge=0, le=1)


class VocData(DataSet):
    """PASCAL VOC 2012: the folder ``VOCdevkit/VOC2012``, its 20 classes by ``ImageSets/Main``.

    Attributes:
        path: the folder that holds ``JPEGImages`` and ``ImageSets``.
        size: side in pixels.
    """

    kind: Literal["voc"]
    path: Path
    size: int = Field(default=224, ge=32)


DataSettings = Annotated[
    CompositeData | StoreData | SitesData | SyntheticData | MedMnistData | VocData, Field(discriminator="kind")
]


class PartitionSpec(Settings):
    """How a pool is dealt out to sites.

    Attributes:
        sites: number of sites.
        alpha: Dirichlet concentration of the classes over sites; None deals every class evenly.
        missing_classes: findings of which each site holds no positive.
        quantity_alpha: Dirichlet concentration of the site sizes; None for equal sizes.
        unknown: findings whose labels each site does not know (partially annotated sites).
        unknown_as: ``unknown`` leaves them out of everything; ``negative`` takes them for absent, as is often done.
        natural: leave the sites of the data as they are.
        by: a site for each value of this column of a prepared store's manifest, such as ``view``; nothing is drawn.
        min_images: training images that each site gets at least.
    """

    sites: int = Field(default=10, ge=2)
    alpha: float | None = Field(default=None, gt=0)
    missing_classes: int = Field(default=0, ge=0)
    quantity_alpha: float | None = Field(default=None, gt=0)
    unknown: int = Field(default=0, ge=0)
    unknown_as: Literal["unknown", "negative"] = "unknown"
    natural: bool = False
    by: str | None = None
    min_images: int = Field(default=10, ge=1)


class BenchEvaluation(Settings):
    """When models are measured, and how one round is chosen.

    Attributes:
        every: the global model is measured every so many rounds.
        late: and after each of the last so many rounds.
        choose: the round whose model is reported: the ``best`` macro AUC on validation, or the ``last``.
        batch_size: images a batch where nothing is trained.
    """

    every: int = Field(default=5, ge=1)
    late: int = Field(default=4, ge=1)
    choose: Literal["best", "last"] = "best"
    batch_size: int = Field(default=250, ge=1)


def _short_forms(schema: Json) -> None:
    """What a matrix file may say in fewer words, for its schema."""
    properties = schema["properties"]
    properties["seeds"] = {"anyOf": [{"type": "integer", "minimum": 1}, properties["seeds"]]}
    for key in ("partitions", "methods"):
        whole = properties[key]
        named = {name: {"anyOf": [one, {"type": "null"}]} for name, one in whole["patternProperties"].items()}
        names = {"type": "array", "items": {"type": "string"}, "minItems": 1}
        properties[key] = {"anyOf": [names, {**whole, "patternProperties": named}]}


class Matrix(Settings):
    """A matrix file.

    Attributes:
        name: of the study.
        engine: ``local`` (in this process) or ``flare`` (the simulator); the same training code. What isn't a
            federation (regimes ``local`` and ``pooled``) is trained in this process either way.
        seeds: of the runs; a number ``n`` stands for ``0 .. n-1``. Composites, partitions and weights hang on it.
        settings: job settings of all runs.
        datasets: by name.
        partitions: by name; without settings the name says them.
        methods: by name: job settings, ``regime``, and ``published`` (start from the published settings); without any,
            the name is one of ``methods.yaml``.
        evaluation: when and how models are measured.
        search: settings searched for every method, on validation, before the runs; None for none.
        baseline: the method that others are compared with in tables; None for the first.
    """

    model_config = ConfigDict(json_schema_extra=_short_forms)

    name: Name = "bench"
    engine: Literal["local", "flare"] = "local"
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = (0, 1, 2)
    settings: Json = Field(default={})
    datasets: dict[Name, DataSettings] = Field(min_length=1)
    partitions: dict[Name, PartitionSpec] = Field(min_length=1)
    methods: dict[Name, Json] = Field(min_length=1)
    evaluation: BenchEvaluation = BenchEvaluation()
    search: Search | None = None
    baseline: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        out = dict(content)
        seeds = out.get("seeds")
        if isinstance(seeds, int) and not isinstance(seeds, bool) and seeds > 0:
            out["seeds"] = list(range(seeds))
        for key in ("partitions", "methods"):
            if isinstance(out.get(key), list):
                if not all(isinstance(name, str) for name in out[key]):
                    raise ValueError(
                        f"{key}: a list holds names only. Give settings below a name: '{key}: {{NAME: ...}}'"
                    )
                out[key] = dict.fromkeys(out[key])
        if isinstance(out.get("partitions"), dict):
            out["partitions"] = {name: _partition(name, given) for name, given in out["partitions"].items()}
        if isinstance(out.get("methods"), dict):
            out["methods"] = {name: given or {} for name, given in out["methods"].items()}
        return out

    @model_validator(mode="after")
    def _fits(self) -> Matrix:
        if self.baseline is not None and self.baseline not in self.methods:
            raise ValueError(f"baseline '{self.baseline}' is none of the methods: {', '.join(self.methods)}")
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError("seeds: name one or more, each once")
        named = (("methods", self.methods), ("partitions", self.partitions))
        for key, known in named if self.search else ():
            for name in getattr(self.search, key):
                if name not in known:
                    raise ValueError(f"search.{key}: '{name}' is none of {', '.join(known)}")
        return self


def _partition(name: Any, given: Any) -> Any:
    """A partition's settings: what its name says, and what stands below it."""
    if given is not None and not isinstance(given, Mapping):
        return given
    if given is None or set(given) <= {"sites", "min_images"}:
        return {**partition_by_name(str(name)), **(given or {})}
    return {**named_settings(str(name), given), **given}


@dataclass(frozen=True)
class RunKey:
    """Which run of a matrix."""

    dataset: str
    partition: str
    method: str
    seed: int

    @property
    def folder(self) -> Path:
        """Its folder below ``runs``: the row of the matrix is the address."""
        return Path(self.dataset) / self.partition / self.method / f"seed{self.seed}"


def load_matrix(path: Path, data: Sequence[str] = (), weights: Path | None = None) -> Matrix:
    """Read a matrix file; relative paths in it count from its own folder.

    Args:
        path: of the file.
        data: ``NAME=PATH`` for each data set that lies elsewhere than the file says.
        weights: in the place of the file's ``settings.network.init_weights``.

    Raises:
        UserError: for a bad file, an unknown key, or settings that no job takes.
    """
    file = read_yaml_file(path)
    matrix = parse(Matrix, file.content, where=Place(str(path), file))
    home = path.resolve().parent
    datasets = {
        name: data.model_copy(update={"path": (home / place.expanduser())})
        if isinstance(place := getattr(data, "path", None), Path) and not place.is_absolute()
        else data
        for name, data in matrix.datasets.items()
    }
    for text in data:
        name, sign, place = text.partition("=")
        if not sign or not place or name not in datasets or not hasattr(datasets[name], "path"):
            raise UserError(f"--data {text}: expected NAME=PATH with one of {', '.join(datasets)}.")
        datasets[name] = datasets[name].model_copy(update={"path": Path(place).expanduser().resolve()})
    matrix = matrix.model_copy(update={"datasets": datasets, "settings": _with_weights(matrix.settings, home, weights)})
    _check_search(matrix, Place(str(path), file))
    for method in matrix.methods:
        regime_of(matrix, method, Place(str(path), file, (("methods", method),)))
        # What a method sets is laid over what the matrix sets for all, and a mistake may stand in either.
        job = job_of(matrix, method, seed=0, where=Place(str(path), file, (("methods", method), ("settings",))))
        if matrix.engine == "flare" and job.method == "fedbn":
            raise UserError(
                f"{path}: methods.{method}: FedBN's models stay on its sites' disks, where 'engine: flare' doesn't "
                "measure them. Set engine: local, or leave the method out."
            )
    return matrix


def _check_search(matrix: Matrix, place: Place) -> None:
    """Raise a UserError for a setting to be searched that no job has."""
    search = matrix.search
    if search is None:
        return
    known = set(setting_names(JobSettings))
    tables: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [(("settings",), search.settings)]
    tables += [(("methods", name), table) for name, table in search.methods.items()]
    for above, settings in tables:
        for name in settings:
            if name not in known:
                line = place.line(("search", *above, name))
                told = unknown_key(JobSettings, name.split("."), {})
                raise UserError(f"{place.name}, line {line}: search.{'.'.join(above)}: {told}")


def _with_weights(settings: Json, home: Path, weights: Path | None) -> Json:
    """Job settings with the file of initial weights whole."""
    network = settings.get("network")
    named = network.get("init_weights") if isinstance(network, dict) else None
    place = weights.expanduser().resolve() if weights else home / Path(str(named)).expanduser() if named else None
    return settings if place is None else merged(settings, {"network": {"init_weights": str(place)}})


def run_keys(matrix: Matrix) -> Iterator[RunKey]:
    """All runs, seeds first: a study that is cut short has some seeds of everything."""
    for seed in matrix.seeds:
        for dataset in matrix.datasets:
            for partition in matrix.partitions:
                for method in matrix.methods:
                    yield RunKey(dataset, partition, method, seed)


def job_of(
    matrix: Matrix, method: str, *, seed: int, where: str | Place = "matrix", more: Mapping[str, Any] | None = None
) -> JobSettings:
    """Job settings of a method's run: what the package says of it, then the matrix, then the method's own.

    Raises:
        UserError: for a method that the package doesn't know by name and that the matrix doesn't describe.
    """
    place = where if isinstance(where, Place) else Place(where)
    content = merged(matrix.settings, preset(method, matrix.methods.get(method, {}), place), more or {})
    content.pop("regime", None)
    return parse(JobSettings, {**content, "seed": seed}, where=place)


def regime_of(matrix: Matrix, method: str, where: Place = _MATRIX) -> str:
    """``federated``, ``local`` (every site alone) or ``pooled`` (all images in one place).

    Raises:
        UserError: if it is another one.
    """
    found = preset(method, matrix.methods.get(method, {}), where).get("regime", _REGIMES[0])
    if found not in _REGIMES:
        told = f"methods.{method}.regime: {unknown_value(found, _REGIMES)}"
        raise UserError(f"{_at(where, ('regime',))}: {told}")
    return str(found)


@lru_cache(maxsize=1)
def _known_methods() -> Json:
    return read_yaml(Path(__file__).with_name("methods.yaml"))


def preset(method: str, given: Json, where: Place) -> Json:
    """Settings of a method: those of its name in ``methods.yaml``, if it is there, with the given ones on top."""
    known = _known_methods()
    if method not in known and not given:
        near = nearest(method, list(known))
        hint = f"Did you mean '{near}'?" if near else "Give its settings below its name."
        raise UserError(
            f"{_at(where, ())}: methods: '{method}' has no settings, and is none of {', '.join(known)}. {hint}"
        )
    content = merged(known.get(method) or {}, given)
    return merged(published(), content) if content.pop("published", False) else content


def _at(where: Place, location: tuple[str, ...]) -> str:
    line = where.line(location)
    return where.name + (f", line {line}" if line else "")
