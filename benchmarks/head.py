"""The head and loss of FedNCA-ML beside a straight implementation, forward and backward, in the same run.

    python benchmarks/head.py [--json FILE] [--csv FILE] [--repeats 30] [--threads 2] [--clock wall]

32 images, 512 channels, a map of 7 x 7, 14 and 80 classes. The straight version (the baseline) calls torch's own
attention module, compares class by class with the frame, and picks negatives with a Python set. Both have the same
weights, and their losses and gradients are compared before anything is timed. Inference, which needs the
predictions alone, is timed beside the straight version without gradients. Versions take turns, and the medians are
compared.
"""

from __future__ import annotations

from typing import Any

import torch
from timing import parser, take_turns, write
from torch import Tensor, nn
from torch.nn import functional as F

from nc_medfl.losses import FedNCALoss
from nc_medfl.networks.class_attention import ClassQueryAttention
from nc_medfl.networks.etf import ETFClassifier, simplex_etf
from nc_medfl.networks.joint_head import read

BATCH, DIM, SIDE = 32, 512, 7
TARGETS = {14: 0.3, 80: 0.5}


class Straight(nn.Module):
    """The method as one would first write it down."""

    def __init__(self, frame: Tensor) -> None:
        super().__init__()
        self.register_buffer("frame", frame.clone())
        self.attention = nn.MultiheadAttention(frame.shape[1], 4, batch_first=True)
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.bias = nn.Parameter(torch.zeros(len(frame)))

    def forward(self, feature_map: Tensor) -> tuple[Tensor, Tensor]:
        """Cross logits and class features."""
        tokens = feature_map.flatten(2).transpose(1, 2)
        queries = self.frame.expand(len(tokens), -1, -1)
        features, _ = self.attention(queries, tokens, tokens, need_weights=True, average_attn_weights=False)
        logits = [F.linear(features[:, c], self.frame) * self.scale + self.bias for c in range(len(self.frame))]
        return torch.stack(logits, dim=1), features

    def loss(self, feature_map: Tensor, targets: Tensor) -> Tensor:
        """BCE, rejection of the worst negatives, contrast of the positives."""
        cross, features = self(feature_map)
        batch = len(targets)
        total = F.binary_cross_entropy_with_logits(cross.diagonal(dim1=1, dim2=2), targets, reduction="sum") / batch
        positives = [(b, c) for b in range(batch) for c in range(targets.shape[1]) if targets[b, c] == 1]
        taken = set(positives)
        worst = cross.detach().amax(dim=-1)
        negatives = [(b, c) for b in range(batch) for c in range(targets.shape[1]) if (b, c) not in taken]
        negatives = sorted(negatives, key=lambda pair: -float(worst[pair]))[: len(positives)]
        for b, c in negatives:
            total = total + 0.01 * (cross[b, c].max().sigmoid() - 0.3).clamp_min(0) / batch
        rows = torch.stack([features[b, c] for b, c in positives])
        cosines = F.normalize(rows, dim=-1) @ F.normalize(self.frame, dim=-1).t() / 0.07
        own = torch.tensor([c for _, c in positives])
        return total + F.cross_entropy(cosines, own, reduction="sum") / batch


class Ours(nn.Module):
    """The package's head."""

    def __init__(self, frame: Tensor) -> None:
        super().__init__()
        self.reader = ClassQueryAttention(frame)
        self.classifier = ETFClassifier(frame)
        self.criterion = FedNCALoss(frame)

    def loss(self, feature_map: Tensor, targets: Tensor) -> Tensor:
        """The package's loss."""
        features, _, cross = read(self.reader, self.classifier, feature_map)
        total: Tensor = self.criterion(cross, features, targets).total
        return total

    def predictions(self, feature_map: Tensor) -> Tensor:
        """Logits alone."""
        own = self.reader.compare(feature_map, self.classifier.frame)
        return self.classifier.scale * own + self.classifier.bias


def build(classes: int) -> tuple[Straight, Ours, Tensor, Tensor]:
    """Both versions with the same weights, a feature map, targets with 15% positives."""
    torch.manual_seed(classes)
    frame = simplex_etf(classes, DIM)
    ours, straight = Ours(frame), Straight(frame)
    straight.attention.load_state_dict(ours.reader.attention.state_dict())
    feature_map = torch.randn(BATCH, DIM, SIDE, SIDE).relu_()
    return straight, ours, feature_map, (torch.rand(BATCH, classes) < 0.15).float()


def step(module: Straight | Ours, feature_map: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Forward and backward; the loss and the gradient of the map."""
    leaf = feature_map.detach().requires_grad_()
    module.zero_grad(set_to_none=True)
    loss = module.loss(leaf, targets)
    torch.autograd.backward(loss)
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


def measure(classes: int, repeats: int, clock: str) -> list[dict[str, Any]]:
    """Train and inference rows for one number of classes."""
    straight, ours, feature_map, targets = build(classes)
    for one, other in zip(step(straight, feature_map, targets), step(ours, feature_map, targets), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    train = take_turns(
        {
            "straight": lambda: step(straight, feature_map, targets),
            "ours": lambda: step(ours, feature_map, targets),
        },
        repeats,
        clock,
        warm_up=3,
    )
    with torch.inference_mode():
        expected = straight(feature_map)[0].diagonal(dim1=1, dim2=2)
        torch.testing.assert_close(ours.predictions(feature_map), expected, rtol=1e-3, atol=1e-4)
        infer = take_turns(
            {"straight": lambda: straight(feature_map), "ours": lambda: ours.predictions(feature_map)},
            repeats,
            clock,
            warm_up=3,
        )
    rows = []
    for kind, times, target in (("train", train, TARGETS[classes]), ("infer", infer, TARGETS[classes])):
        rows.append(
            {
                "name": f"head_{kind}_{classes}",
                "value": round(times["ours"] * 1000, 3),
                "unit": "ms a batch of 32",
                "baseline": "straight implementation with torch's module",
                "ratio": round(times["ours"] / times["straight"], 4),
                "settings": {
                    "classes": classes,
                    "baseline_ms": round(times["straight"] * 1000, 3),
                    "threads": torch.get_num_threads(),
                    "repeats": repeats,
                    "clock": clock,
                    "target": target,
                },
            }
        )
    return rows


def main() -> None:
    """Run all, print a table, write JSON and CSV on request."""
    arguments = parser(__doc__, repeats=30).parse_args()
    torch.set_num_threads(arguments.threads)
    rows = [row for classes in TARGETS for row in measure(classes, arguments.repeats, arguments.clock)]
    write(rows, arguments.json, arguments.csv)


if __name__ == "__main__":
    main()
