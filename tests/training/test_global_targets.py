"""What a site aims at for findings that it has no positive of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from nc_medfl.config import JobSettings
from nc_medfl.losses.functional import masked_bce
from nc_medfl.settings import parse
from nc_medfl.training.global_targets import GlobalTargets
from nc_medfl.training.model import build_network
from nc_medfl.training.precision import Precision
from nc_medfl.training.trainer import train_round

JOB = {
    "vocabulary": "nih14",
    "network": {"backbone": "small", "norm": "group"},
    "loss": {"lambda_rejection": 0.0, "lambda_contrast": 0.0},
    "training": {"augment": False, "lr": 1e-3},
}
FLOAT32 = Precision(torch.device("cpu"), mixed=False)
ABSENT = torch.tensor([True] * 7 + [False] * 7)


class Says(nn.Module):
    """A network whose logits are its one weight, for every image and finding."""

    def __init__(self, logit: float, findings: int) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.full((findings,), logit))

    def predictions(self, image: Tensor) -> Tensor:
        return self.logit.expand(len(image), -1)


def test_only_known_negatives_of_absent_findings_move_and_by_the_share_of_what_the_model_says() -> None:
    # logit(0.2) = ln(0.2 / 0.8)
    network = Says(-1.3862943611, 3)
    moved = GlobalTargets(network, torch.tensor([True, True, False]), 0.5, FLOAT32)
    targets = torch.tensor([[0.0, float("nan"), 0.0], [1.0, 0.0, 1.0]])
    found = moved(torch.rand(2, 1, 4, 4), targets)
    expected = torch.tensor([[0.1, float("nan"), 0.0], [1.0, 0.1, 1.0]])
    torch.testing.assert_close(found, expected, equal_nan=True)


def test_the_targets_stay_those_of_the_model_that_came_while_the_network_trains() -> None:
    network = Says(0.0, 2)
    moved = GlobalTargets(network, torch.tensor([True, True]), 1.0, FLOAT32)
    with torch.no_grad():
        network.logit.fill_(9.0)
    found = moved(torch.rand(1, 1, 4, 4), torch.zeros(1, 2))
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.5]]))
    assert not found.requires_grad


def test_the_cross_entropy_of_a_soft_target_is_least_where_the_prediction_equals_it() -> None:
    logits = torch.linspace(-4, 4, 801, dtype=torch.float64)
    values = [float(masked_bce(one.view(1, 1), torch.tensor([[0.3]], dtype=torch.float64))) for one in logits]
    best = float(logits[int(torch.tensor(values).argmin())])
    assert torch.sigmoid(torch.tensor(best)).item() == pytest.approx(0.3, abs=0.003)


def batches(_epoch: int) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(12):
        # All else is unknown, so that nothing but the findings looked at pulls at the weights.
        label = torch.full((4, 14), float("nan"))
        label[:, ABSENT] = 0.0
        yield {"image": torch.rand(4, 1, 32, 32, generator=generator), "label": label}


def trained(share: float, round_number: int, absent: Tensor | None = ABSENT, **job: object) -> tuple[Tensor, Tensor]:
    """Mean logits of absent findings before and after a round, of a model that calls everything likely."""
    settings = parse(JobSettings, {**JOB, **job, "loss": {**JOB["loss"], "absent_from_global": share}}, where="test")  # type: ignore[dict-item]
    network = build_network(settings)
    with torch.no_grad():
        dict(network.named_parameters())["classifier.bias"].fill_(2.0)
    image = next(batches(0))["image"]
    logits = []
    for step in range(2):
        if step:
            train_round(network, batches, settings, round_number=round_number, seed=0, absent=absent)
        network.eval()
        with torch.no_grad():
            logits.append(network(image).logits[:, ABSENT].mean())
    return logits[0], logits[1]


def test_a_site_unlearns_what_it_does_not_have_unless_the_global_model_is_kept() -> None:
    before, as_negatives = trained(0.0, 5)
    _, kept = trained(1.0, 5)
    assert as_negatives < before - 0.05
    assert abs(kept - before) < 0.05 * (before - as_negatives)


@pytest.mark.parametrize("case", [(1.0, 0, ABSENT), (1.0, 5, None), (1.0, 5, torch.zeros(14, dtype=torch.bool))])
def test_nothing_is_kept_of_an_untrained_model_nor_where_nothing_is_absent(case: tuple[float, int, Tensor]) -> None:
    share, number, absent = case
    assert trained(share, number, absent)[1] == trained(0.0, number, absent)[1]
