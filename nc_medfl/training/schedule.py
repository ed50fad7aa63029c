"""What of a job's settings changes from round to round: the learning rate.

A federation of skewed sites swings from round to round as long as its sites take long steps. Every site knows the
number of the round and of all rounds, so the rate can fall over the *rounds*, as it elsewhere does over a training's
steps (Loshchilov and Hutter, SGDR, ICLR 2017). Li et al., *On the Convergence of FedAvg on Non-IID Data*, ICLR 2020,
prove that in a federation it has to fall. Within a round it stays as it is.
"""

from __future__ import annotations

import math

from nc_medfl.config import JobSettings, TrainingSettings


def rate_factor(training: TrainingSettings, round_number: int, rounds: int) -> float:
    """What the learning rate of a round is multiplied by.

    The rate rises evenly over ``warmup_rounds``, so that the round after them is the first with all of it. ``cosine``
    then falls along half a cosine that would reach 0 after the last round.

    Args:
        training: of the job.
        round_number: 0 for the first.
        rounds: of the job.

    Returns:
        A number above 0 and up to 1.

    Example:
        >>> falling = TrainingSettings(lr_schedule="cosine", warmup_rounds=2)
        >>> [round(rate_factor(falling, number, 10), 3) for number in (0, 1, 2, 6, 9)]
        [0.333, 0.667, 1.0, 0.5, 0.038]
    """
    warmup = training.warmup_rounds
    if round_number < warmup:
        return (round_number + 1) / (warmup + 1)
    if training.lr_schedule == "constant":
        return 1.0
    done = (round_number - warmup) / max(rounds - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * done))


def in_round(settings: JobSettings, round_number: int) -> JobSettings:
    """A job's settings as they are in one round.

    Args:
        settings: of the job.
        round_number: 0 for the first.
    """
    factor = rate_factor(settings.training, round_number, settings.rounds)
    if factor == 1.0:
        return settings
    training = settings.training.model_copy(update={"lr": settings.training.lr * factor})
    return settings.model_copy(update={"training": training})
