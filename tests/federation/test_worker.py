"""What a site gives away about its classes."""

from __future__ import annotations

import numpy as np
import pytest

from nc_medfl.config import JobSettings, PrivacySettings, SiteConfig
from nc_medfl.data.store import Store
from nc_medfl.federation.worker import SiteWorker
from nc_medfl.settings import parse
from tests_support import tiny_site

SETTINGS = parse(JobSettings, {"network": {"backbone": "small"}}, where="test").for_sites()


def a_worker(store: Store, min_positives: int = 0) -> SiteWorker:
    privacy = PrivacySettings(min_positives=min_positives)
    return SiteWorker(SETTINGS, SiteConfig(name="a", store=store.folder, device="cpu", privacy=privacy))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Rare findings, so that some have no patient, some one and some more among the training images."""
    return tiny_site(tmp_path_factory.mktemp("site"), "a", images=100, prevalence=0.025, seed=3)


def training_patients(store: Store) -> list[int]:
    """How many patients of the training split have each finding, counted from the manifest."""
    rows = store.manifest[store.manifest["split"] == "train"]
    return [int(rows.loc[rows[f"label:{name}"] == 1, "patient_key"].nunique()) for name in store.vocabulary.findings]


def test_no_sum_over_a_single_patient_leaves_the_site(store: Store) -> None:
    patients = training_patients(store)
    assert {0, 1} < set(patients)
    worker = a_worker(store)
    statistics = worker.validate(worker.network.state_dict()).statistics
    assert statistics.feature_sums is not None
    for count, told, total in zip(patients, statistics.counts[0], statistics.feature_sums[0], strict=True):
        # The count is told: the server weighs the class by it, and it is no feature.
        assert (told > 0) == (count > 0)
        assert np.isnan(total).all() == (count == 1)
        assert np.isfinite(total).all() == (count != 1)
    assert np.isfinite(statistics.feature_sums[1]).all()


def test_classes_with_too_few_positives_are_withheld_whole(store: Store) -> None:
    worker = a_worker(store, min_positives=3)
    statistics = worker.validate(worker.network.state_dict()).statistics
    labels = store.labels()[store.positions("train")]
    few = (labels == 1).sum(axis=0) < 3
    assert few.any()
    assert not few.all()
    assert statistics.feature_sums is not None
    assert np.isnan(statistics.counts).all(axis=0).tolist() == few.tolist()
    assert np.isnan(statistics.feature_sums[:, few]).all()
