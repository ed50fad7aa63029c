"""Data sets as their publishers hand them out, made up here: MedMNIST files, a VOC folder, synthetic hospitals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from nc_medfl.benchmark.composites import ClassPictures, compose, read_class_pictures
from nc_medfl.benchmark.datasets import extent_of, make_pool, source_print
from nc_medfl.benchmark.drawn import hospitals_of
from nc_medfl.benchmark.matrix import MedMnistData, SitesData, SyntheticData, VocData
from nc_medfl.benchmark.voc import fitted
from nc_medfl.errors import UserError

COUNTS = {"train": 30, "val": 10, "test": 14}


def an_npz(path: Path, labels: dict[str, npt.NDArray[np.generic]], *, colour: bool) -> Path:
    rng = np.random.default_rng(0)
    shape = (28, 28, 3) if colour else (28, 28)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for split, count in COUNTS.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = labels[split]
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def test_a_file_of_many_labels_is_a_pool_as_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = {split: rng.integers(0, 2, (count, 14), dtype=np.uint8) for split, count in COUNTS.items()}
    path = an_npz(tmp_path / "chestmnist.npz", labels, colour=False)
    pool = make_pool(MedMnistData(kind="medmnist", path=path), 0, tmp_path)
    assert (pool.images.shape, pool.channels) == ((54, 28, 28), 1)
    assert pool.findings[:2] == ("atelectasis", "cardiomegaly")
    assert {split: int((pool.split == split).sum()) for split in COUNTS} == COUNTS
    for split in COUNTS:
        np.testing.assert_array_equal(pool.labels[pool.split == split], labels[split])
    with np.load(path) as archive:
        np.testing.assert_array_equal(pool.images[pool.split == "val"], archive["val_images"])
    fewer = make_pool(MedMnistData(kind="medmnist", path=path, train=12), 0, tmp_path)
    assert int((fewer.split == "train").sum()) == 12
    assert fewer.fingerprint != pool.fingerprint
    with pytest.raises(UserError, match="composites are made of pictures of one class each"):
        make_pool(MedMnistData(kind="medmnist", path=path, composite=True), 0, tmp_path)


def test_a_file_of_one_class_an_image_makes_composites_of_its_own_splits(tmp_path: Path) -> None:
    labels = {split: (np.arange(count) % 7)[:, None].astype(np.uint8) for split, count in COUNTS.items()}
    path = an_npz(tmp_path / "dermamnist.npz", labels, colour=True)
    plain = make_pool(MedMnistData(kind="medmnist", path=path), 0, tmp_path)
    assert plain.findings == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    np.testing.assert_array_equal(plain.labels.argmax(axis=1)[:30], np.arange(30) % 7)
    assert (plain.labels.sum(axis=1) == 1).all()
    data = MedMnistData(kind="medmnist", path=path, composite=True)
    pool = make_pool(data, 3, tmp_path)
    assert pool.images.shape == (54, 3, 28, 56)
    # Half of the canvases of each split show two classes.
    for split, count in COUNTS.items():
        assert (pool.labels[pool.split == split].sum(axis=1) == 2).sum() == count // 2
    # Every picture on a test canvas is a test picture of the class it is labelled with.
    with np.load(path) as archive:
        known = {image.transpose(2, 0, 1).tobytes(): k % 7 for k, image in enumerate(archive["test_images"])}
    for image, label in zip(pool.images[pool.split == "test"], pool.labels[pool.split == "test"], strict=True):
        halves = [image[:, :, :28], image[:, :, 28:]]
        shown = {known[np.ascontiguousarray(half).tobytes()] for half in halves if half.any()}
        assert shown == set(np.flatnonzero(label))
    extent = extent_of(data)
    assert (extent.train, extent.findings, extent.shape) == (30, 7, (3, 28, 56))


def test_what_is_no_file_of_medmnist_is_told(tmp_path: Path) -> None:
    (tmp_path / "other.npz").write_bytes(b"no zip")
    with pytest.raises(UserError, match=r"no train_images and train_labels in it"):
        make_pool(MedMnistData(kind="medmnist", path=tmp_path / "other.npz"), 0, tmp_path)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    folder = tmp_path / "VOC2012"
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "JPEGImages").mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 6)):
        ids = [f"2008_{split == 'val':d}{k:05d}" for k in range(count)]
        for name in ids:
            pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg")
        for number, thing in enumerate(("aeroplane", "cat", "sofa")):
            # VOC pads its labels to two places; 0 is difficult.
            lines = [f"{name} {('-1', ' 1', ' 0')[(k + number) % 3]}" for k, name in enumerate(ids)]
            (folder / "ImageSets" / "Main" / f"{thing}_{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


def test_voc_is_tested_on_its_val_list_and_what_is_difficult_is_unknown(voc: Path, tmp_path: Path) -> None:
    pool = make_pool(VocData(kind="voc", path=voc, size=32), 0, tmp_path)
    assert pool.findings == ("aeroplane", "cat", "sofa")
    assert pool.images.shape == (26, 3, 32, 32)
    assert {name[:6] for name in pool.patients[pool.split == "test"]} == {"2008_1"}
    assert int((pool.split == "val").sum()) == 3
    first = pool.labels[pool.patients.tolist().index("2008_000000")]
    np.testing.assert_array_equal(first, [0, 1, np.nan])
    again = make_pool(VocData(kind="voc", path=voc, size=32), 5, tmp_path)
    np.testing.assert_array_equal(again.split, pool.split)
    np.testing.assert_array_equal(again.images, pool.images)


def test_a_photograph_is_fitted_whole_into_its_square() -> None:
    picture = Image.new("RGB", (60, 40), (200, 10, 30))
    square = fitted(picture, 30)
    # 60 x 40 becomes 30 x 20, with five black rows above and below.
    assert (square[:, 5:25] == np.array([200, 10, 30])[:, None, None]).all()
    assert not square[:, :5].any()
    assert not square[:, 25:].any()


def test_a_broken_voc_folder_is_told(voc: Path, tmp_path: Path) -> None:
    next((voc / "JPEGImages").iterdir()).unlink()
    with pytest.raises(UserError, match="missing or no readable picture"):
        make_pool(VocData(kind="voc", path=voc, size=32), 0, tmp_path)
    (voc / "ImageSets" / "Main" / "cat_val.txt").write_text("2008_100000 1\n")
    with pytest.raises(UserError, match="name different photographs"):
        make_pool(VocData(kind="voc", path=voc, size=32), 0, tmp_path / "other")


def test_synthetic_hospitals_are_the_sites_and_are_drawn_once(tmp_path: Path) -> None:
    data = SyntheticData(kind="synthetic", sites=2, patients=10, size=32)
    pool = make_pool(data, 1, tmp_path)
    assert pool.sites is not None
    assert sorted(set(pool.sites.tolist())) == ["klinikum_nord", "st_mary"]
    assert [hospital.name for hospital in hospitals_of(6)][-3:] == ["harbour_clinic", "st_mary_2", "klinikum_nord_2"]
    assert pool.images.shape[1:] == (32, 32)
    [store] = tmp_path.glob("synthetic-*[!k]")
    written = store.stat().st_mtime_ns
    again = make_pool(data, 1, tmp_path)
    np.testing.assert_array_equal(again.images, pool.images)
    assert store.stat().st_mtime_ns == written
    assert again.fingerprint == pool.fingerprint != make_pool(data, 2, tmp_path).fingerprint


def test_a_sites_store_is_watched_wherever_it_lies(tmp_path: Path) -> None:
    for name in ("north", "south"):
        (tmp_path / "sites" / name).mkdir(parents=True)
        (tmp_path / "far" / name).mkdir(parents=True)
        (tmp_path / "far" / name / "manifest.parquet").write_bytes(b"as it was")
        text = f"name: {name}\nstore: {tmp_path / 'far' / name}\n"
        (tmp_path / "sites" / name / "site.yaml").write_text(text)
    data = SitesData(kind="sites", path=tmp_path / "sites")
    source_print.cache_clear()
    before = source_print(data)
    (tmp_path / "far" / "south" / "manifest.parquet").write_bytes(b"prepared again")
    source_print.cache_clear()
    assert source_print(data) != before


def test_a_rare_class_costs_no_search_through_ever_more_pictures() -> None:
    sizes = (1000, 10)
    classes = np.repeat([0, 1], sizes).astype(np.int64)
    source = ClassPictures(np.zeros((sum(sizes), 3, 8, 8), np.uint8), classes, ("common", "rare"), np.full(1010, -1))

    class Counted(np.random.Generator):
        pictures = 0

        def permutation(self, x: Any, axis: int = 0) -> Any:
            self.pictures += len(x) if np.ndim(x) else 0
            return super().permutation(x, axis)

    rng = Counted(np.random.PCG64(0))
    _, labels = compose(source, np.arange(1010), 2000, 0.5, rng)
    assert (labels.sum(axis=1) == 2).sum() == 1000
    # 3000 places for 1010 pictures are some decks; without a bound the 1000 rare ones needed took a hundred.
    assert rng.pictures <= 10 * 1010


def test_grey_pictures_of_16_bits_keep_their_shades_and_of_32_bits_are_refused(tmp_path: Path) -> None:
    shades = np.linspace(0, 65535, 32 * 32).reshape(32, 32)
    for name in ("a", "b"):
        (tmp_path / "deep" / name).mkdir(parents=True)
        Image.fromarray(shades.astype(np.uint16)).save(tmp_path / "deep" / name / "1.png")
    found = read_class_pictures(tmp_path / "deep", 32).pictures.astype(int)
    assert np.abs(found - shades / 257).max() <= 1
    Image.fromarray(shades.astype(np.int32)).save(tmp_path / "deep" / "a" / "2.tif")
    with pytest.raises(UserError, match=r"a/2\.tif is no readable picture of 8 or 16 bits"):
        read_class_pictures(tmp_path / "deep", 32)
