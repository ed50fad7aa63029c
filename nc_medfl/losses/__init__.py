"""Losses: pure functions in ``functional``, and ``FedNCALoss``, which puts them together.

A target is 1, 0 or NaN; NaN is unknown and takes no part in any term.
"""

from nc_medfl.losses.fednca import FedNCALoss, LossTerms
from nc_medfl.losses.functional import choose_negatives, contrastive_loss, masked_bce, rejection_loss

__all__ = ["FedNCALoss", "LossTerms", "choose_negatives", "contrastive_loss", "masked_bce", "rejection_loss"]
