"""What an update must be before any arithmetic touches it.

Every check takes what came over the wire, believes nothing about its type, and says what is wrong without a value of
it: a reason stands in logs and tables, and must not carry a site's data or text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nc_medfl.federation import keys
from nc_medfl.federation.class_statistics import Floats, SiteStatistics
from nc_medfl.federation.refusal import RefusedUpdate

#: A sum of n unit vectors is no longer than n, but for rounding.
_ROUNDING = 1e-6
#: Buffers of batch normalisation. With a variance under 0 in the average, the next model gives NaN everywhere.
_NEVER_NEGATIVE = frozenset({"running_var", "num_batches_tracked"})


def checked_params(params: Any, previous: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and buffers as the previous model has them.

    Args:
        params: as received.
        previous: names, shapes and types to find.

    Raises:
        RefusedUpdate: for missing or unknown names, what is no array, another shape or type, a NaN or an infinity, or a
            variance or a number of batches under 0.
    """
    if not isinstance(params, Mapping) or not params:
        raise RefusedUpdate("it holds no parameters")
    absent = [name for name in previous if name not in params]
    n_extra = sum(name not in previous for name in params)
    if absent or n_extra:
        first = f" ({absent[0]} ...)" if absent else ""
        raise RefusedUpdate(f"{len(absent)} parameters missing{first}, {n_extra} unknown")
    return {name: _checked_tensor(name, params[name], expected) for name, expected in previous.items()}


def _checked_tensor(name: str, value: Any, expected: Tensor) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        value = torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
    if not isinstance(value, Tensor):
        raise RefusedUpdate(f"{name} is not an array of numbers")
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise RefusedUpdate(f"{name} is not a plain dense array")
    if value.shape != expected.shape:
        raise RefusedUpdate(f"{name} has shape {list(value.shape)}, not {list(expected.shape)}")
    if value.dtype != expected.dtype:
        raise RefusedUpdate(f"{name} is {value.dtype}, not {expected.dtype}")
    if value.is_floating_point() and not is_finite(value):
        raise RefusedUpdate(f"{name} holds a NaN or an infinity")
    if name.rpartition(".")[2] in _NEVER_NEGATIVE and bool((value < 0).any()):
        raise RefusedUpdate(f"{name} is under 0, which it can't be")
    return value.detach()


def is_finite(value: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity.

    A sum with one of them in it is one itself, and takes a fiftieth of the time; large numbers can also add up to an
    infinity, and are then looked at one by one.
    """
    return math.isfinite(float(value.sum())) or bool(torch.isfinite(value).all())


def checked_n_samples(value: Any, max_samples: int) -> int:
    """The number of training images of a site.

    Raises:
        RefusedUpdate: if it is no whole number from 1 to ``max_samples``.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise RefusedUpdate("its number of training images is not a whole number")
    if value <= 0:
        raise RefusedUpdate("it was trained on no image")
    if value > max_samples:
        raise RefusedUpdate(f"it claims more training images than aggregation.max_samples ({max_samples})")
    return int(value)


def adds_noise(meta: Mapping[str, Any]) -> bool:
    """Whether a site says that it protects its patients with noise, so that its counts are not exact."""
    told = meta.get(keys.PRIVACY)
    return isinstance(told, Mapping) and (told.get("class_statistics") is True or told.get("model") is True)


def checked_statistics(
    meta: Mapping[str, Any], n_samples: int, n_classes: int, frame_shape: tuple[int, ...] | None
) -> SiteStatistics:
    """A site's counts and feature sums.

    Counts are whole numbers of images, or NaN where both of a class are withheld; positives and negatives of a class
    are no more than the training images; a sum of unit vectors is no longer than its count. A site that says it adds
    noise is not held to that: its counts are brought into the possible range instead, so that a word of noise
    gives no weight beyond its images.

    Args:
        meta: of the answer.
        n_samples: training images that the site can have.
        n_classes: C.
        frame_shape: of the simplex, ``(C, D)``; None for a method without one, which sends no sums.

    Raises:
        RefusedUpdate: if they have a wrong shape or impossible values.
    """
    noisy = adds_noise(meta)
    counts = _numbers(meta.get(keys.COUNTS), (2, n_classes), f"class counts are not [2, {n_classes}] numbers of images")
    if noisy:
        counts = np.clip(counts, 0.0, float(n_samples))
    else:
        _check_counts(counts, n_samples)
    given = meta.get(keys.FEATURE_SUMS)
    if given is None:
        return SiteStatistics(counts)
    if frame_shape is None:
        raise RefusedUpdate("feature sums come with a method that has none")
    sums = _numbers(given, (2, *frame_shape), "feature sums have a wrong shape or are not finite")
    unknown = np.isnan(sums)
    if (unknown.any(axis=-1) != unknown.all(axis=-1)).any():
        raise RefusedUpdate("feature sums are not finite; only whole sums can be withheld")
    if not noisy:
        _check_lengths(sums, counts, n_samples)
    return SiteStatistics(counts, sums)


def _numbers(value: Any, shape: tuple[int, ...], complaint: str) -> Floats:
    """An array of real numbers; NaN may be in it, an infinity may not."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RefusedUpdate(complaint) from error
    if array.dtype.kind not in "fiu" or array.shape != shape:
        raise RefusedUpdate(complaint)
    numbers: Floats = array.astype(np.float64)
    if np.isinf(numbers).any():
        raise RefusedUpdate(complaint)
    return numbers


def _check_counts(counts: Floats, n_samples: int) -> None:
    if (np.isnan(counts[0]) != np.isnan(counts[1])).any():
        raise RefusedUpdate("class counts are withheld by halves; positives and negatives go together")
    known = np.nan_to_num(counts)
    if (known < 0).any():
        raise RefusedUpdate("class counts are negative")
    if (known != np.floor(known)).any():
        raise RefusedUpdate("class counts are not whole numbers, and it doesn't say that it adds noise")
    if (known.sum(axis=0) > n_samples).any():
        raise RefusedUpdate("class counts are more than its training images")


def _check_lengths(sums: Floats, counts: Floats, n_samples: int) -> None:
    # NaN on either side compares as False: what is withheld can't be too long, save for the images that there are.
    lengths = np.linalg.norm(sums, axis=-1)
    most = np.where(np.isnan(counts), float(n_samples), counts)
    if (lengths > most * (1 + _ROUNDING) + _ROUNDING).any():
        raise RefusedUpdate("feature sums are longer than their counts allow")


def checked_fingerprints(meta: Mapping[str, Any], expected: Mapping[str, str]) -> Mapping[str, Any]:
    """Fingerprints of what a site works with.

    Raises:
        RefusedUpdate: if it gives none, or one that differs.
    """
    given = meta.get(keys.FINGERPRINTS)
    if not isinstance(given, Mapping):
        raise RefusedUpdate("it carries no fingerprints")
    for name, value in expected.items():
        if given.get(name) != value:
            raise RefusedUpdate(f"{name} fingerprint differs from the server's")
    return given


def checked_precision(meta: Mapping[str, Any]) -> str:
    """The precision that a site says it trained in; empty where it is no word for one."""
    given = meta.get(keys.FINGERPRINTS)
    word = given.get("precision") if isinstance(given, Mapping) else None
    return word if word in ("float32", "mixed") else ""


def shown(value: Any, length: int = 16) -> str:
    """A short word that a site gave, fit for a log: letters, digits, ``.+-`` and no more of it than that."""
    if not isinstance(value, str) or not value:
        return "none"
    kept = "".join(c if c.isascii() and (c.isalnum() or c in ".+-_") else "?" for c in value[:length])
    return kept + ("..." if len(value) > length else "")
