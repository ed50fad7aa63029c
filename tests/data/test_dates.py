"""Dates moved by a patient's secret offset: intervals are kept within a patient, and the offset needs the salt."""

from __future__ import annotations

from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nc_medfl.data.dates import shift_of, shifted_date

SALT = b"0123456789abcdef"
DAYS = st.dates(date(1902, 1, 1), date(2098, 1, 1))


def written(day: date) -> str:
    return day.strftime("%Y%m%d")


@given(first=DAYS, second=DAYS, patient=st.text(max_size=20))
def test_the_days_between_two_visits_are_kept(first, second, patient):
    moved = [datetime.strptime(shifted_date(SALT, patient, written(day)), "%Y%m%d").date() for day in (first, second)]
    assert moved[1] - moved[0] == second - first
    assert 0 < abs((moved[0] - first).days) <= 365


def test_every_shift_but_none_occurs_about_equally_often():
    shifts = [shift_of(SALT, f"patient {number}") for number in range(20_000)]
    assert 0 not in shifts
    assert (min(shifts), max(shifts)) == (-365, 365)
    # Half of 20,000 throws of a coin: four standard deviations are 283.
    assert abs(sum(shift > 0 for shift in shifts) - 10_000) < 283


def test_another_salt_gives_other_shifts():
    patients = [f"patient {number}" for number in range(50)]
    assert [shift_of(SALT, p) for p in patients] != [shift_of(b"another secret of 16 bytes", p) for p in patients]


@pytest.mark.parametrize("text", ["", "20200230", "2020", "not a date", "00010101", "99991231"])
def test_what_is_no_date_or_leaves_the_calendar_becomes_empty(text):
    # One of the first and the last day moves out of the calendar with any shift; the other may stay.
    assert "" in {shifted_date(SALT, f"p{number}", text) for number in range(40)}
    assert shifted_date(SALT, "p", "20200230") == ""
