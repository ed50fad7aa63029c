"""Shifting dates by a secret number of days, the same for all of a patient, so that intervals are kept."""

from __future__ import annotations

import hashlib
import hmac
from datetime import date, timedelta

#: The farthest that a date is moved, in days.
MAX_SHIFT = 365


def shift_of(salt: bytes, patient_key: str) -> int:
    """The number of days by which a patient's dates are moved, never 0.

    Args:
        salt: the site's secret.
        patient_key: the patient's keyed name in the manifest.

    Returns:
        Days in [-365, 365], drawn by HMAC-SHA256: all lengths but 0 are equally likely.
    """
    digest = hmac.new(salt, f"date\0{patient_key}".encode(), hashlib.sha256).digest()
    days = int.from_bytes(digest[:16], "big") % (2 * MAX_SHIFT) - MAX_SHIFT
    return days if days < 0 else days + 1


def shifted_date(salt: bytes, patient_key: str, day: str) -> str:
    """Move a date by the patient's secret offset.

    Args:
        salt: the site's secret.
        patient_key: the patient's keyed name in the manifest.
        day: ``YYYYMMDD``, or empty.

    Returns:
        ``YYYYMMDD``, or empty where there is no date to move or the calendar ends.
    """
    try:
        moved = date(int(day[:4]), int(day[4:6]), int(day[6:])) + timedelta(days=shift_of(salt, patient_key))
    except (ValueError, OverflowError):
        return ""
    return f"{moved.year:04d}{moved.month:02d}{moved.day:02d}"
