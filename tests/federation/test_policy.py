"""Whether a site takes part in a job, and what the server learns if it doesn't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext, FLContextManager
from nvflare.apis.signal import Signal
from nvflare.apis.workspace import Workspace
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from nc_medfl.config import JobSettings, PrivacySettings, SiteConfig, save_site_config
from nc_medfl.data.store import Store
from nc_medfl.errors import UserError
from nc_medfl.federation import keys
from nc_medfl.federation import policy as p
from nc_medfl.federation.arguments import to_arguments
from nc_medfl.federation.audit import read_audit
from nc_medfl.federation.client import SiteExecutor
from nc_medfl.federation.policy import CATEGORIES, Refusal, check_job
from nc_medfl.federation.tasks import in_few_words
from nc_medfl.settings import parse
from nc_medfl.training.model import build_network
from tests_support import tiny_site

NOISE = {"multiplier": 4.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """48 training images of 24 patients."""
    return tiny_site(tmp_path_factory.mktemp("site"), "a", images=80)


def a_job(**content: Any) -> JobSettings:
    content.setdefault("network", {"backbone": "small"})
    return parse(JobSettings, content, where="test").for_sites()


def a_site(store: Store, **privacy: Any) -> SiteConfig:
    settings = parse(PrivacySettings, privacy, where="test")
    return SiteConfig(name="a", store=store.folder, device="cpu", privacy=settings)


@pytest.mark.parametrize(
    ("job", "privacy", "category", "reason"),
    [
        ({}, {"min_patients": 25}, p.COHORT, r"privacy\.min_patients"),
        ({}, {"min_images": 49}, p.COHORT, r"privacy\.min_images"),
        ({"name": "other"}, {"allowed_jobs": ["chest-*", "fednca_cxr"]}, p.JOB, r"privacy\.allowed_jobs"),
        ({"method": "fedavg"}, {"allowed_methods": ["fednca"]}, p.METHOD, r"privacy\.allowed_methods"),
        ({"release": {"min_positives": 1}}, {"min_positives": 5}, p.STATISTICS, r"privacy\.min_positives 5"),
        ({"release": {"min_positives": 5}}, {"allow_class_statistics": False}, p.STATISTICS, "no class statistics"),
        (
            {"release": {"class_statistics": "required"}},
            {"allow_class_statistics": False},
            p.STATISTICS,
            r"privacy\.allow_class_statistics",
        ),
        ({"kind": "label_statistics"}, {"allow_class_statistics": False}, p.STATISTICS, "exact label counts"),
        ({"kind": "label_statistics"}, {"statistics_noise": NOISE}, p.STATISTICS, "exact label counts"),
        (
            {},
            {"dp_sgd": {"multiplier": 1.0}, "statistics_noise": NOISE},
            p.TRAINING,
            r"network\.norm=group and loss\.lambda_rejection=0",
        ),
        ({"method": "scaffold"}, {"update_clip": 1.0}, p.TRAINING, "scaffold sends more"),
    ],
)
def test_what_the_policy_denies_is_refused_with_the_key_that_denies_it(
    store: Store, job: dict[str, Any], privacy: dict[str, Any], category: str, reason: str
) -> None:
    with pytest.raises(Refusal, match=reason) as caught:
        check_job(a_job(**job), a_site(store, **privacy), store)
    assert caught.value.category == category
    assert in_few_words(caught.value) == category
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("job", "privacy"),
    [
        ({}, {}),
        ({}, {"min_patients": 24, "min_images": 48}),
        ({"name": "chest-7"}, {"allowed_jobs": ["chest-*"], "allowed_methods": ["fednca"]}),
        ({"release": {"min_positives": 5}}, {"min_positives": 5}),
        ({"release": {"class_statistics": "none", "min_positives": 1}}, {"min_positives": 5}),
        ({"kind": "evaluate"}, {"dp_sgd": {"multiplier": 1.0}, "allow_class_statistics": False}),
        (
            {
                "network": {"backbone": "small", "norm": "group"},
                "loss": {"lambda_rejection": 0, "absent_from_global": 0},
            },
            {"dp_sgd": {"multiplier": 1.0}, "statistics_noise": NOISE},
        ),
    ],
)
def test_what_the_policy_allows_goes_on(store: Store, job: dict[str, Any], privacy: dict[str, Any]) -> None:
    check_job(a_job(**job), a_site(store, **privacy), store)


def test_a_delta_that_lets_a_patient_out_is_a_mistake_of_the_site(store: Store) -> None:
    with pytest.raises(UserError, match=r"privacy\.delta 0\.05 is no protection for 24 .* below 0\.042"):
        check_job(a_job(), a_site(store, statistics_noise=NOISE, delta=0.05), store)


def test_what_the_server_learns_holds_no_number() -> None:
    assert not any(character.isdigit() or character in "/\\" for text in CATEGORIES for character in text)


class _Engine:
    """What the executor asks of FLARE's engine."""

    def __init__(self, root: Path) -> None:
        (root / "startup").mkdir(parents=True)
        (root / "local").mkdir()
        self._workspace = Workspace(str(root), "a")

    def get_workspace(self) -> Workspace:
        return self._workspace


@pytest.fixture
def flare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FLContext:
    """A context as FLARE's client hands it to an executor."""
    monkeypatch.delenv(keys.ENV_SITES_DIR, raising=False)
    manager = FLContextManager(_Engine(tmp_path / "workspace"), identity_name="a", job_id="simulate_job")
    context: FLContext = manager.new_context()
    meta = {"submitter_name": "admin@lead.org", "submitter_org": "lead", "submitter_role": "lead"}
    context.set_prop(FLContextKey.JOB_META, meta, private=True, sticky=False)
    return context


def ask(flare: FLContext, arguments: dict[str, Any], config: SiteConfig, tasks: list[str]) -> list[Any]:
    """Give tasks to a site's executor, as FLARE does."""
    save_site_config(config, Path(flare.get_engine().get_workspace().get_root_dir()) / "local" / "site.yaml")
    executor = SiteExecutor(arguments)
    params = build_network(a_job()).state_dict()
    model = FLModel(params=params, current_round=0, meta={keys.RUN_ID: "0" * 32})
    return [executor.execute(task, FLModelUtils.to_shareable(model), flare, Signal()) for task in tasks]


def test_a_job_made_by_hand_that_asks_for_raw_features_is_refused_at_the_site(flare: FLContext, tmp_path: Path) -> None:
    store = tiny_site(tmp_path, "a")
    arguments = to_arguments(a_job())
    arguments["job"]["release"]["raw_features"] = True
    answer, *_ = ask(flare, arguments, a_site(store), ["train"])
    assert answer.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert answer.get_header(keys.FAILURE) == p.UNKNOWN_SETTINGS
    workspace = Path(flare.get_engine().get_workspace().get_root_dir())
    assert "unknown key 'release.raw_features'" in next(workspace.rglob(keys.CLIENT_ERROR)).read_text()
    entries, _ = read_audit(store.folder)
    assert [(e["event"], e["told"]) for e in entries] == [("refused", p.UNKNOWN_SETTINGS)]


def test_a_refused_site_says_why_to_itself_and_only_the_kind_of_reason_to_the_server(
    flare: FLContext, tmp_path: Path
) -> None:
    store = tiny_site(tmp_path, "a")
    answers = ask(flare, to_arguments(a_job()), a_site(store, min_patients=1234), ["train", "train", "get_features"])
    assert [a.get_return_code() for a in answers] == ["EXECUTION_EXCEPTION", "EXECUTION_EXCEPTION", "TASK_UNKNOWN"]
    assert answers[0].get_header(keys.FAILURE) == p.COHORT
    assert set(answers[0].keys()) <= {ReservedKey.RC, "__headers__"}
    workspace = Path(flare.get_engine().get_workspace().get_root_dir())
    assert "privacy.min_patients" in next(workspace.rglob(keys.CLIENT_ERROR)).read_text()
    entries, broken = read_audit(store.folder)
    assert broken is None
    assert [entry["event"] for entry in entries] == ["job", "refused", "refused", "refused"]
    assert entries[0]["privacy"] == {"min_patients": 1234}
    assert entries[-1]["told"] == "unknown task"


def test_the_audit_trail_tells_who_asked_and_what_was_sent_and_no_patient(flare: FLContext, tmp_path: Path) -> None:
    store = tiny_site(tmp_path, "a")
    config = a_site(store, statistics_noise=NOISE, update_clip=0.5)
    (answer, *_) = ask(flare, to_arguments(a_job()), config, ["train", "validate", "evaluate"])
    entries, broken = read_audit(store.folder)
    assert broken is None
    assert [(e["event"], e.get("task")) for e in entries] == [
        ("job", None),
        ("answered", "train"),
        ("answered", "validate"),
        ("answered", "evaluate"),
    ]
    assert (entries[0]["submitter"], entries[0]["organisation"]) == ("admin@lead.org", "lead")
    assert entries[0]["settings"]["network"]["backbone"] == "small"
    train = entries[1]
    sent = FLModelUtils.from_shareable(answer)
    expected = {name: [str(v.dtype).removeprefix("torch."), list(v.shape)] for name, v in sent.params.items()}
    assert train["tensors"] == expected
    assert train["change_norm"] == pytest.approx(0.5, rel=1e-3)
    assert train["meta"][keys.PRIVACY]["epsilon"] > 0
    assert train["meta"][keys.COUNTS]["shape"] == [2, 14]
    assert train["meta"][keys.FINGERPRINTS]["model"] == build_network(a_job()).fingerprint()
    text = (store.folder / "site_private" / "audit.jsonl").read_text()
    manifest = store.manifest
    for value in {*manifest["patient_key"], *manifest["sample_id"], str(store.folder)}:
        assert value not in text
    assert (store.folder / "site_private" / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_nothing_is_sent_that_cannot_be_written_down(flare: FLContext, tmp_path: Path) -> None:
    store = tiny_site(tmp_path, "a")
    (tmp_path / "audit").mkdir()
    answer, *_ = ask(flare, to_arguments(a_job()), a_site(store, audit=tmp_path / "audit"), ["train"])
    assert answer.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert answer.get_header(keys.FAILURE) == "something to mend at the site; see its log"


def test_a_changed_or_missing_line_of_the_trail_shows(flare: FLContext, tmp_path: Path) -> None:
    store = tiny_site(tmp_path, "a")
    ask(flare, to_arguments(a_job()), a_site(store), ["validate", "validate", "validate"])
    path = store.folder / "site_private" / "audit.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1].replace("validate", "evaluate"), *lines[2:]]))
    assert read_audit(path)[1] == 3
    path.write_text("".join([lines[0], *lines[2:]]))
    assert read_audit(path)[1] == 2
    path.write_text("".join(lines))
    assert read_audit(path)[1] is None
    path.write_text("".join(lines) + "not json\n")
    with pytest.raises(UserError, match="line 5: not an entry"):
        read_audit(path)


def test_a_spent_budget_is_told_by_its_kind_from_a_process_of_its_own_too(flare: FLContext, tmp_path: Path) -> None:
    store = tiny_site(tmp_path, "a")
    config = a_site(store, statistics_noise={"multiplier": 0.1}, max_epsilon=1.0)
    answer, *_ = ask(flare, to_arguments(a_job()), config.model_copy(update={"trainer": "process"}), ["validate"])
    assert answer.get_header(keys.FAILURE) == p.BUDGET
    assert not (store.folder / "site_private" / "privacy_ledger.jsonl").exists()


def test_counts_of_a_refused_kind_never_reach_the_wire(flare: FLContext, tmp_path: Path) -> None:
    store = tiny_site(tmp_path, "a")
    job = a_job(kind="label_statistics")
    answer, *_ = ask(flare, to_arguments(job), a_site(store, statistics_noise=NOISE), [keys.TASK_LABELS])
    assert answer.get_header(keys.FAILURE) == p.STATISTICS
    assert not any(isinstance(value, np.ndarray) for value in answer.values())
