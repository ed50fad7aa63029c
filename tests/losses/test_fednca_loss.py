"""The loss against numbers worked out by hand and against a slow reference written from METHOD section 4."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nc_medfl.losses import FedNCALoss, choose_negatives, contrastive_loss, masked_bce, rejection_loss
from nc_medfl.networks.etf import ETFClassifier, simplex_etf

NAN = math.nan


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def slow_loss(
    cross: Tensor,
    features: Tensor,
    targets: Tensor,
    frame: Tensor,
    *,
    margin: float = 0.3,
    temperature: float = 0.07,
    negatives: str = "topk",
    contrast: str = "cross_entropy",
) -> tuple[float, float, float]:
    """BCE, REJ and PSC pair by pair, in plain Python numbers."""
    images, classes = targets.shape
    pairs = [(b, c) for b in range(images) for c in range(classes)]
    positives = [(b, c) for b, c in pairs if targets[b, c] == 1]
    absent = [(b, c) for b, c in pairs if targets[b, c] == 0]
    bce = rejection = psc = 0.0
    for b, c in positives + absent:
        p = sigmoid(cross[b, c, c].item())
        bce -= math.log(p if (b, c) in positives else 1 - p)
    peaks = {(b, c): max(cross[b, c].tolist()) for b, c in absent}
    chosen = sorted(absent, key=lambda pair: -peaks[pair])
    if negatives == "topk":
        chosen = chosen[: len(positives)]
    if positives:
        rejection = sum(max(0.0, sigmoid(peaks[pair]) - margin) for pair in chosen)
    for b, c in positives:
        z = features[b, c].tolist()
        cosines = []
        for m in frame.tolist():
            dot = sum(x * y for x, y in zip(z, m, strict=True))
            cosines.append(dot / math.sqrt(sum(x * x for x in z)) / math.sqrt(sum(y * y for y in m)))
        if contrast == "cosine":
            psc += 1 - cosines[c]
        else:
            psc += math.log(sum(math.exp((x - cosines[c]) / temperature) for x in cosines))
    return bce / images, rejection / images, psc / images


def random_batch(
    images: int, classes: int, dim: int, seed: int, positive: float = 0.3, unknown: float = 0.2
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    frame = simplex_etf(classes, dim, seed=seed).double()
    features = torch.randn(images, classes, dim, generator=rng, dtype=torch.float64)
    cross = 2 * features @ frame.T + torch.randn(classes, generator=rng, dtype=torch.float64)
    targets = (torch.rand(images, classes, generator=rng, dtype=torch.float64) < positive).double()
    targets[torch.rand(images, classes, generator=rng) < unknown] = NAN
    return cross, features, targets, frame


# ---- by hand ----


def test_bce_by_hand() -> None:
    # Image 1: logit 0, positive: ln 2 = 0.693147. Logit 2, negative: ln(1 + e^2) = 2.126928.
    # Image 2: logit -1, positive: ln(1 + e) = 1.313262. The other is unknown.
    # Sum 4.133337 over two images: 2.066668.
    logits = torch.tensor([[0.0, 2.0], [-1.0, 5.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, NAN]])
    assert masked_bce(logits, targets).item() == pytest.approx(2.066668, abs=1e-5)


def test_hinge_by_hand() -> None:
    # Largest cross logit of each negative: (1,2): 1.0, (2,1): 0.2, (2,2): -3.0; (1,1) is the one positive, so
    # K = 1 and the chosen one is (1,2): sigmoid(1) - 0.3 = 0.731059 - 0.3 = 0.431059, over two images 0.215529.
    cross = torch.tensor([[[9.0, 9.0], [1.0, -1.0]], [[-0.5, 0.2], [-3.0, -4.0]]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert choose_negatives(cross, targets).tolist() == [[False, True], [False, False]]
    assert rejection_loss(cross, targets).item() == pytest.approx(0.215529, abs=1e-5)
    # All of them: sigmoid(0.2) - 0.3 = 0.249834 joins, sigmoid(-3) - 0.3 is below 0: (0.431059 + 0.249834) / 2.
    assert rejection_loss(cross, targets, negatives="all").item() == pytest.approx(0.340447, abs=1e-5)


def test_contrast_by_hand() -> None:
    # Three corners of a triangle, cosines -1/2. A feature on its own vertex, temperature 0.5:
    # ln(e^2 + 2 e^-1) - 2 = ln(7.389056 + 0.735759) - 2 = 0.094923.
    # One against the first vertex (cosine -1), with cosines 1/2 to the others:
    # ln(e^-2 + 2 e^1) + 2 = ln(0.135335 + 5.436564) + 2 = 3.717735. Mean over two images 1.906329.
    frame = simplex_etf(3, 2)
    features = torch.zeros(2, 3, 2)
    features[0, 0], features[1, 0] = 4 * frame[0], -0.1 * frame[0]
    targets = torch.tensor([[1.0, 0.0, NAN], [1.0, NAN, 0.0]])
    got = contrastive_loss(features, frame, targets, temperature=0.5)
    assert got.item() == pytest.approx(1.906329, abs=1e-5)
    # By cosine distance: 0 and 2, mean 1.
    assert contrastive_loss(features, frame, targets, contrast="cosine").item() == pytest.approx(1.0, abs=1e-6)


def test_total_by_hand() -> None:
    # One image, two classes in the plane, M = +-(0.7071, -0.7071). Z1 = M1, Z2 = 0.1 M1; scale 10, bias 0:
    # L1 = (10, -10), L2 = (1, -1). y = (1, 0).
    # BCE = ln(1 + e^-10) + ln(1 + e^-1) = 0.000045 + 0.313262 = 0.313307
    # REJ: the negative's largest is 1: 0.731059 - 0.3 = 0.431059
    # PSC: cosines (1, -1), temperature 0.07: ln(1 + e^(-2 / 0.07)) = 0.000000
    # total = 0.313307 + 0.5 * 0.431059 + 0 = 0.528837
    frame = simplex_etf(2, 2)
    features = torch.stack([frame[0], 0.1 * frame[0]])[None]
    terms = FedNCALoss(frame, lambda_rejection=0.5)(
        ETFClassifier(frame)(features), features, torch.tensor([[1.0, 0.0]])
    )
    assert [t.item() for t in terms] == pytest.approx([0.528837, 0.313307, 0.431059, 0.0], abs=1e-5)


def test_on_a_simplex_with_zero_bias_every_chosen_negative_costs_at_least_a_fifth() -> None:
    # The cross logits sum to zero, so the largest is 0 or more, its sigmoid 0.5 or more, and 0.5 - 0.3 = 0.2.
    frame = simplex_etf(5, 8)
    cross = ETFClassifier(frame)(torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0)))
    targets = torch.tensor([[1.0, 0, 0, 0, 0]] * 6)
    assert rejection_loss(cross, targets).item() >= 0.2
    # Only biases can satisfy it: with the largest at -1, sigmoid(-1) = 0.269 is below the margin.
    assert rejection_loss(cross - cross.max() - 1, targets).item() == 0


# ---- against the slow reference ----


@given(
    images=st.integers(1, 6),
    classes=st.integers(2, 7),
    extra=st.integers(-1, 5),
    seed=st.integers(0, 10_000),
    positive=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    unknown=st.sampled_from([0.0, 0.3, 1.0]),
    negatives=st.sampled_from(["topk", "all"]),
    contrast=st.sampled_from(["cross_entropy", "cosine"]),
    margin=st.sampled_from([0.0, 0.3, 0.6]),
)
@settings(max_examples=120, deadline=None)
def test_every_term_equals_the_slow_reference(
    images: int,
    classes: int,
    extra: int,
    seed: int,
    positive: float,
    unknown: float,
    negatives: Any,
    contrast: Any,
    margin: float,
) -> None:
    cross, features, targets, frame = random_batch(images, classes, classes + extra, seed, positive, unknown)
    loss = FedNCALoss(frame, 0.2, 0.7, margin=margin, temperature=0.2, negatives=negatives, contrast=contrast)
    got = loss(cross, features, targets)
    expected = slow_loss(
        cross, features, targets, frame, margin=margin, temperature=0.2, negatives=negatives, contrast=contrast
    )
    assert [got.bce.item(), got.rejection.item(), got.contrast.item()] == pytest.approx(expected, abs=1e-9, rel=1e-9)
    weighted = expected[0] + 0.2 * expected[1] + 0.7 * expected[2]
    assert got.total.item() == pytest.approx(weighted, abs=1e-9, rel=1e-9)


@pytest.mark.parametrize(("classes", "dim"), [(2, 2), (2, 1), (80, 96), (80, 79), (14, 13)])
def test_few_and_many_classes_equal_the_slow_reference(classes: int, dim: int) -> None:
    cross, features, targets, frame = random_batch(3, classes, dim, seed=1)
    got = FedNCALoss(frame)(cross, features, targets)
    assert list(got[1:]) == pytest.approx(slow_loss(cross, features, targets, frame), rel=1e-9)


def test_published_constants_are_the_defaults() -> None:
    loss = FedNCALoss(simplex_etf(3, 4))
    assert (loss.lambda_rejection, loss.lambda_contrast, loss.margin, loss.temperature) == (0.01, 1.0, 0.3, 0.07)
    assert (loss.negatives, loss.contrast) == ("topk", "cross_entropy")


# ---- batches at the edge ----


@pytest.mark.parametrize("negatives", ["topk", "all", "random"])
def test_a_batch_without_a_positive_has_the_cross_entropy_alone(negatives: Any) -> None:
    cross, features, targets, frame = random_batch(4, 5, 8, seed=0, positive=0.0)
    got = FedNCALoss(frame, negatives=negatives)(cross, features, targets)
    assert got.rejection.item() == 0
    assert got.contrast.item() == 0
    assert got.total.item() == got.bce.item() == pytest.approx(slow_loss(cross, features, targets, frame)[0])


def test_a_batch_of_positives_alone_rejects_nothing() -> None:
    cross, features, targets, frame = random_batch(4, 5, 8, seed=0, positive=1.0, unknown=0.0)
    got = FedNCALoss(frame)(cross, features, targets)
    assert got.rejection.item() == 0
    assert got.contrast.item() == pytest.approx(slow_loss(cross, features, targets, frame)[2])


@pytest.mark.parametrize("negatives", ["topk", "all", "random"])
@pytest.mark.parametrize("contrast", ["cross_entropy", "cosine"])
def test_nothing_known_gives_a_finite_zero_with_zero_gradients(negatives: Any, contrast: Any) -> None:
    cross, features, targets, frame = random_batch(4, 5, 8, seed=0)
    cross.requires_grad_(True)
    features.requires_grad_(True)
    got = FedNCALoss(frame, negatives=negatives, contrast=contrast)(cross, features, torch.full_like(targets, NAN))
    got.total.backward()
    assert [t.item() for t in got] == [0, 0, 0, 0]
    assert cross.grad is not None
    assert features.grad is not None
    assert cross.grad.eq(0).all()
    assert features.grad.eq(0).all()


def test_more_positives_than_negatives_chooses_all_negatives() -> None:
    cross = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.ones(3, 4)
    targets[1, 2] = targets[2, 0] = 0
    targets[0, 0] = NAN
    assert torch.equal(choose_negatives(cross, targets), targets == 0)


def test_unknown_pairs_change_nothing_whatever_they_hold() -> None:
    cross, features, targets, frame = random_batch(4, 5, 8, seed=3, unknown=0.4)
    loss, unknown = FedNCALoss(frame), targets.isnan()
    expected = loss(cross, features, targets)
    for junk in (NAN, math.inf, -1e9):
        spoilt = cross.masked_fill(unknown[..., None], junk).requires_grad_(True)
        spoilt_features = features.masked_fill(unknown[..., None], junk).requires_grad_(True)
        got = loss(spoilt, spoilt_features, targets)
        torch.testing.assert_close(list(got), list(expected))
        got.total.backward()
        for gradient in (spoilt.grad, spoilt_features.grad):
            assert gradient is not None
            assert gradient.isfinite().all()
            assert gradient[unknown].eq(0).all()


def test_an_image_of_unknown_labels_still_counts_as_an_image() -> None:
    cross, features, targets, frame = random_batch(4, 5, 8, seed=3, unknown=0.0)
    targets[2:] = NAN
    loss = FedNCALoss(frame)
    half = loss(cross[:2], features[:2], targets[:2])
    torch.testing.assert_close(list(loss(cross, features, targets)), [t / 2 for t in half])


def test_a_zero_feature_has_no_direction_and_a_finite_gradient() -> None:
    frame = simplex_etf(4, 8)
    features = torch.zeros(2, 4, 8, requires_grad=True)
    value = contrastive_loss(features, frame, torch.ones(2, 4))
    value.backward()
    assert value.item() == pytest.approx(4 * math.log(4), rel=1e-6)  # all four vertices equally likely, 4 classes
    assert features.grad is not None
    assert features.grad.eq(0).all()


def test_extreme_logits_stay_finite() -> None:
    frame = simplex_etf(3, 4)
    cross = torch.tensor([[[1e4, -1e4, 1e4]] * 3], requires_grad=True)
    features = torch.full((1, 3, 4), 1e4, requires_grad=True)
    terms = FedNCALoss(frame)(cross, features, torch.tensor([[1.0, 1.0, 0.0]]))
    terms.total.backward()
    assert terms.total.isfinite()
    assert cross.grad is not None
    assert cross.grad.isfinite().all()


# ---- choosing negatives ----


@given(seed=st.integers(0, 10_000), images=st.integers(1, 6), classes=st.integers(2, 8))
@settings(max_examples=40, deadline=None)
def test_random_negatives_are_as_many_as_positives_and_negatives_all(seed: int, images: int, classes: int) -> None:
    cross, _, targets, _ = random_batch(images, classes, classes, seed)
    chosen = choose_negatives(cross, targets, negatives="random", generator=torch.Generator().manual_seed(seed))
    assert (targets[chosen] == 0).all()
    assert int(chosen.sum()) == min(int((targets == 1).sum()), int((targets == 0).sum()))


def test_random_negatives_follow_the_generator_and_reach_all() -> None:
    targets = torch.tensor([[1.0, 0, 0, 0, NAN]])
    cross = torch.zeros(1, 5, 5)

    def draw(seed: int) -> list[bool]:
        rng = torch.Generator().manual_seed(seed)
        return choose_negatives(cross, targets, negatives="random", generator=rng)[0].tolist()

    assert draw(1) == draw(1)
    reached = torch.tensor([draw(seed) for seed in range(60)]).sum(dim=0)
    # 60 draws of one out of three: 20 each on average; fewer than 6 has a chance below one in 100,000.
    assert reached[[0, 4]].tolist() == [0, 0]
    assert (reached[1:4] >= 6).all()


def test_ties_choose_exactly_k() -> None:
    targets = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    chosen = choose_negatives(torch.zeros(2, 3, 3), targets)
    assert chosen.tolist() == [[False, True, True], [False, False, False]]


def test_choosing_lets_no_gradient_through() -> None:
    cross = torch.randn(2, 3, 3, requires_grad=True)
    assert not choose_negatives(cross, torch.tensor([[1.0, 0, 0], [0, 1, 0]])).requires_grad


# ---- gradients ----


@pytest.mark.parametrize("negatives", ["topk", "all"])
@pytest.mark.parametrize("contrast", ["cross_entropy", "cosine"])
def test_gradients_in_double_precision(negatives: Any, contrast: Any) -> None:
    cross, features, targets, frame = random_batch(3, 4, 5, seed=2)
    assert (targets == 1).any()
    assert targets.isnan().any()
    loss = FedNCALoss(frame, 0.5, 0.5, temperature=0.5, negatives=negatives, contrast=contrast)
    inputs = (cross.requires_grad_(True), features.requires_grad_(True))
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, targets).total, inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_added_up_in_single(dtype: torch.dtype) -> None:
    cross, features, targets, frame = random_batch(4, 5, 8, seed=3)
    loss = FedNCALoss(frame.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(cross.to(dtype), features.to(dtype), targets)
    assert all(t.dtype == torch.float32 for t in got)
    expected = loss(cross.to(dtype).float(), features.to(dtype).float(), targets.float())
    torch.testing.assert_close(list(got), list(expected))


def test_loss_holds_a_copy_of_the_frame_and_nothing_to_train_or_save() -> None:
    frame = simplex_etf(3, 4)
    loss = FedNCALoss(frame)
    frame.zero_()
    assert torch.equal(loss.frame, simplex_etf(3, 4))
    assert list(loss.parameters()) == []
    assert loss.state_dict() == {}


# ---- the border ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"negatives": "hard"}, "there are: topk, all, random"),
        ({"contrast": "l2"}, "there are: cross_entropy, cosine"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"margin": 1.5}, "margin in"),
        ({"lambda_contrast": -1.0}, "lambdas 0 or more"),
    ],
)
def test_constants_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FedNCALoss(simplex_etf(3, 4), **arguments)


@pytest.mark.parametrize(
    "call",
    [
        lambda loss: loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.zeros(2, 3)),
        lambda loss: loss(torch.zeros(2, 3, 3), torch.zeros(2, 3, 5), torch.zeros(2, 3)),
        lambda loss: loss(torch.zeros(2, 3, 3), torch.zeros(3, 3, 4), torch.zeros(2, 3)),
        lambda _: masked_bce(torch.zeros(2, 3), torch.zeros(2, 4)),
        lambda _: FedNCALoss(torch.zeros(3)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call: Callable[[FedNCALoss], Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        call(FedNCALoss(simplex_etf(3, 4)))
