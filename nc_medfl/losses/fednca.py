"""The local loss of FedNCA-ML (METHOD section 4)."""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from nc_medfl.losses.functional import Contrast, Negatives, contrastive_loss, masked_bce, rejection_loss


class LossTerms(NamedTuple):
    """The loss and its parts, scalars; the parts are not yet weighted.

    Attributes:
        total: ``bce + lambda_rejection * rejection + lambda_contrast * contrast``.
        bce: binary cross entropy of the predictions.
        rejection: how much features of absent classes look like a class.
        contrast: how far features of present classes are from their own vertex.
    """

    total: Tensor
    bce: Tensor
    rejection: Tensor
    contrast: Tensor


class FedNCALoss(nn.Module):
    """Binary cross entropy, rejection of negatives, contrast of positives.

    Labels may be unknown (NaN): such a pair takes no part in any term nor in any count. A batch without a
    positive has the cross entropy alone; one with nothing known gives 0 with zero gradients. Worked out in
    float32 or better, also under autocast.

    Args:
        frame: M, ``[C, D]``; copied.
        lambda_rejection: weight of the rejection.
        lambda_contrast: weight of the contrast.
        margin: probability up to which a negative's resemblance to a class costs nothing.
        temperature: of the contrast's softmax.
        negatives: which negatives are rejected: ``topk`` (as many as the batch has positives, the most
            offending), ``all``, or ``random`` (as many, at random).
        contrast: ``cross_entropy`` over the vertices, or plain ``cosine`` distance.
        generator: draws for ``random``; None draws from torch's global one.

    Raises:
        ValueError: if a constant is out of its range or a name unknown.
    """

    frame: Tensor

    def __init__(
        self,
        frame: Tensor,
        lambda_rejection: float = 0.01,
        lambda_contrast: float = 1.0,
        margin: float = 0.3,
        temperature: float = 0.07,
        negatives: Negatives = "topk",
        contrast: Contrast = "cross_entropy",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if frame.ndim != 2:
            raise ValueError(f"the frame must be [C, D], not {tuple(frame.shape)}")
        if negatives not in get_args(Negatives):
            raise ValueError(f"no negatives '{negatives}' (there are: {', '.join(get_args(Negatives))})")
        if contrast not in get_args(Contrast):
            raise ValueError(f"no contrast '{contrast}' (there are: {', '.join(get_args(Contrast))})")
        if temperature <= 0 or not 0 <= margin <= 1 or min(lambda_rejection, lambda_contrast) < 0:
            raise ValueError(
                "temperature must be above 0, margin in [0, 1], and both lambdas 0 or more: "
                f"{temperature}, {margin}, {lambda_rejection}, {lambda_contrast}"
            )
        self.register_buffer("frame", frame.detach().clone(), persistent=False)
        self.lambda_rejection = lambda_rejection
        self.lambda_contrast = lambda_contrast
        self.margin = margin
        self.temperature = temperature
        self.negatives: Negatives = negatives
        self.contrast: Contrast = contrast
        self.generator = generator

    def forward(
        self, cross_logits: Tensor, class_features: Tensor, targets: Tensor, frame: Tensor | None = None
    ) -> LossTerms:
        """Work out the loss of a batch.

        Args:
            cross_logits: L, ``[B, C, C]``; its diagonal is the prediction.
            class_features: Z, ``[B, C, D]``.
            targets: ``[B, C]``, 1, 0 or NaN; what lies between 0 and 1 is the aim of the cross entropy, and neither a
                positive nor a negative.
            frame: M as it is now, where it is learned.
        """
        with torch.autocast(cross_logits.device.type, enabled=False):
            # The rejection checks the shape of the cross logits, so it comes before their diagonal is taken.
            rejection = rejection_loss(
                cross_logits, targets, margin=self.margin, negatives=self.negatives, generator=self.generator
            )
            bce = masked_bce(cross_logits.diagonal(dim1=1, dim2=2), targets)
            contrast = contrastive_loss(
                class_features,
                self.frame if frame is None else frame,
                targets,
                temperature=self.temperature,
                contrast=self.contrast,
            )
            total = bce + self.lambda_rejection * rejection + self.lambda_contrast * contrast
        return LossTerms(total, bce, rejection, contrast)
