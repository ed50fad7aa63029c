"""Batches and dataset: every image once, in an order that seed and epoch decide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nc_medfl.data.dataset import epoch_batches, make_loader
from nc_medfl.data.store import Store
from nc_medfl.data.transforms import AugmentationSettings, Normalisation, draw_table, train_transform
from tests_support import tiny_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return tiny_store(tmp_path_factory.mktemp("store"), images=60)


@given(images=st.integers(0, 70), batch_size=st.integers(1, 20), shuffle=st.booleans(), epoch=st.integers(0, 5))
def test_every_image_comes_once_an_epoch(images: int, batch_size: int, shuffle: bool, epoch: int) -> None:
    positions = np.arange(images) * 3
    batches = epoch_batches(positions, batch_size, shuffle=shuffle, seed=1, epoch=epoch)
    together = np.concatenate([*batches, np.empty(0, dtype=np.int64)])
    assert sorted(together) == positions.tolist()
    sizes = [len(rows) for rows in batches]
    assert all(size == batch_size for size in sizes[:-2])
    assert all(0 < size <= batch_size + shuffle for size in sizes)
    if not shuffle:
        assert together.tolist() == positions.tolist()
    elif batch_size > 1 and images > 1:
        assert min(sizes) > 1


def test_a_last_single_image_joins_the_batch_before_in_training_only() -> None:
    nine = np.arange(9)
    assert [len(b) for b in epoch_batches(nine, 4, shuffle=True, seed=0, epoch=0)] == [4, 5]
    assert [len(b) for b in epoch_batches(nine, 4, shuffle=False, seed=0, epoch=0)] == [4, 4, 1]
    assert [len(b) for b in epoch_batches(nine[:6], 4, shuffle=True, seed=0, epoch=0)] == [4, 2]
    assert [len(b) for b in epoch_batches(nine[:1], 4, shuffle=True, seed=0, epoch=0)] == [1]
    with pytest.raises(ValueError, match="below 1"):
        epoch_batches(nine, 0, shuffle=True, seed=0, epoch=0)


def test_each_epoch_has_an_order_of_its_own_that_the_seed_repeats() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(epoch_batches(np.arange(40), 8, shuffle=True, seed=seed, epoch=epoch)).tolist()

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(10)}) == 30


def test_evaluation_gives_stored_images_and_labels_in_the_manifest_order(store: Store) -> None:
    loader = make_loader(store, "val", batch_size=5, training=False)
    batches = list(loader)
    rows = store.positions("val")
    assert len(loader) == len(batches) == -(-len(rows) // 5)
    assert torch.cat([b["index"] for b in batches]).tolist() == rows.tolist()
    images = torch.cat([b["image"] for b in batches])
    assert images.shape == (len(rows), 1, 32, 32)
    np.testing.assert_allclose(images[:, 0].numpy(), store.images(rows) / 255.0, atol=1e-6)
    np.testing.assert_array_equal(torch.cat([b["label"] for b in batches]).numpy(), store.labels()[rows])


def test_training_batches_repeat_by_seed_and_epoch_and_vary_between_epochs(store: Store) -> None:
    def walk(seed: int, epoch: int) -> torch.Tensor:
        loader = make_loader(
            store, "train", batch_size=7, training=True, augmentation=AugmentationSettings(), seed=seed, epoch=epoch
        )
        first, second = ({int(i): x for b in loader for i, x in zip(b["index"], b["image"], strict=True)} for _ in "ab")
        assert list(first) == list(second)
        stacked = torch.stack([first[i] for i in sorted(first)])
        torch.testing.assert_close(stacked, torch.stack([second[i] for i in sorted(second)]), atol=0, rtol=0)
        return stacked

    again = walk(1, 4)
    torch.testing.assert_close(walk(1, 4), again, atol=0, rtol=0)
    for other in (walk(1, 5), walk(2, 4)):
        changed = (other - again).abs().amax(dim=(1, 2, 3))
        assert (changed > 0.01).all()


def test_batch_size_does_not_change_what_becomes_of_an_image(store: Store) -> None:
    def by_row(batch_size: int) -> dict[int, torch.Tensor]:
        loader = make_loader(
            store, "train", batch_size=batch_size, training=True, augmentation=AugmentationSettings(), seed=2
        )
        return {int(i): x for b in loader for i, x in zip(b["index"], b["image"], strict=True)}

    small, large = by_row(3), by_row(16)
    for row, image in small.items():
        torch.testing.assert_close(image, large[row], atol=1e-6, rtol=0)


def test_training_without_augmentation_only_shuffles(store: Store) -> None:
    loader = make_loader(store, "train", batch_size=8, training=True, seed=3)
    rows = torch.cat([b["index"] for b in loader]).numpy()
    assert rows.tolist() != sorted(rows.tolist())
    images = torch.cat([b["image"] for b in loader])[:, 0].numpy()
    np.testing.assert_allclose(images, store.images(rows) / 255.0, atol=1e-6)


def test_size_channels_and_normalisation_reach_the_batch(store: Store) -> None:
    loader = make_loader(store, "test", batch_size=4, training=False, size=16, channels=3, normalisation="imagenet")
    image = next(iter(loader))["image"]
    assert image.shape == (4, 3, 16, 16)
    small = store.images(store.positions("test")[:4]).reshape(4, 16, 2, 16, 2).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(image[:, 2].numpy(), (small - 0.406) / 0.225, atol=1e-5)


def test_unknown_labels_stay_unknown(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, images=20)
    store.manifest.loc[:, "label:Mass"] = np.nan
    column = store.vocabulary.findings.index("Mass")
    for batch in make_loader(store, "train", batch_size=4, training=True):
        assert batch["label"][:, column].isnan().all()
        assert not batch["label"].isnan()[:, :column].any()


def test_a_batch_holds_what_its_images_give_singly(store: Store) -> None:
    settings = AugmentationSettings()
    loader = make_loader(
        store, "train", batch_size=6, training=True, normalisation="imagenet", augmentation=settings, seed=9, epoch=2
    )
    transform = train_transform(32, 32, Normalisation.named("imagenet"), augmentation=settings, seed=9)
    draws = draw_table(len(store), 9, 2)
    seen = []
    for batch in loader:
        for row, image, label in zip(batch["index"].tolist(), batch["image"], batch["label"], strict=True):
            alone = {"image": torch.from_numpy(store.images([row])), "draws": draws[row : row + 1]}
            torch.testing.assert_close(transform(alone)["image"][0], image, atol=1e-6, rtol=0)
            np.testing.assert_array_equal(store.labels()[row], label)
            seen.append(row)
    assert sorted(seen) == store.positions("train").tolist()


def test_a_split_without_images_has_no_batches(tmp_path: Path) -> None:
    store = tiny_store(tmp_path, images=8, splits={"train": 0.5, "test": 0.5})
    loader = make_loader(store, "val", batch_size=4, training=False)
    assert len(loader) == 0
    assert list(loader) == []
