"""Filters: the queries they make, what they say to answers, and pages that servers cut as they like."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nc_medfl.data.pacs.query import Filters, count, pages, read_accessions, value
from nc_medfl.errors import UserError


def answer(**elements: str | None) -> dict:
    """An answer in the DICOM JSON model: by tag, a value, or None for an empty attribute."""
    return {
        tag.strip("_"): {"vr": "LO", **({} if text is None else {"Value": [text]})} for tag, text in elements.items()
    }


def test_one_modality_a_query_with_the_window():
    filters = Filters(("CR", "DX"), first=date(2020, 1, 31), last=date(2020, 12, 1))
    assert filters.study_queries() == [
        {"ModalitiesInStudy": "CR", "StudyDate": "20200131-20201201"},
        {"ModalitiesInStudy": "DX", "StudyDate": "20200131-20201201"},
    ]


def test_one_accession_number_a_query():
    assert Filters(accessions=("A1", "A2"), last=date(2019, 5, 4)).study_queries() == [
        {"AccessionNumber": "A1", "StudyDate": "-20190504"},
        {"AccessionNumber": "A2", "StudyDate": "-20190504"},
    ]


@pytest.mark.parametrize(
    ("first", "last", "window"),
    [(None, None, ""), (date(1999, 1, 2), None, "19990102-"), (None, date(1999, 1, 2), "-19990102")],
)
def test_open_windows(first, last, window):
    assert Filters(first=first, last=last).window == window


@pytest.mark.parametrize(
    ("keyword", "text", "wanted"),
    [
        ("Modality", "DX", True),
        ("Modality", "dx", True),
        ("Modality", "CT", False),
        ("Modality", "", False),
        ("BodyPartExamined", "CHEST", True),
        ("BodyPartExamined", "Chest", True),
        ("BodyPartExamined", "HAND", False),
        ("BodyPartExamined", "", False),
        ("StudyDate", "20200101", True),
        ("StudyDate", "20201231", True),
        ("StudyDate", "2020.06.01", True),
        ("StudyDate", "20191231", False),
        ("StudyDate", "20210101", False),
        ("StudyDate", "", False),
        ("AccessionNumber", "7", True),
        ("AccessionNumber", "77", False),
        ("AccessionNumber", "", False),
    ],
)
def test_a_value_is_judged_by_the_filter_about_it(keyword, text, wanted):
    filters = Filters(("DX",), ("CHEST",), date(2020, 1, 1), date(2020, 12, 31), ("7",))
    assert filters.judge(keyword, text) is wanted


@given(st.dates(), st.dates(), st.dates())
def test_the_window_is_inclusive_at_both_ends(first, last, day):
    if first > last:
        first, last = last, first
    text = f"{day.year:04d}{day.month:02d}{day.day:02d}"
    assert Filters(first=first, last=last).judge("StudyDate", text) is (first <= day <= last)
    assert Filters(first=first).judge("StudyDate", text) is (first <= day)
    assert Filters(last=last).judge("StudyDate", text) is (day <= last)


def test_what_no_filter_asks_about_is_never_unknown():
    assert Filters().judge_answer({}, ("StudyDate", "AccessionNumber", "BodyPartExamined")) == (True, frozenset())


def test_an_answer_that_leaves_a_filter_open_says_so():
    filters = Filters(body_parts=("CHEST",), first=date(2020, 1, 1))
    assert filters.judge_answer({}, ("StudyDate", "BodyPartExamined")) == (True, {"StudyDate", "BodyPartExamined"})
    assert filters.judge_answer(answer(_00180015="CHEST"), ("BodyPartExamined",)) == (True, frozenset())
    assert filters.judge_answer(answer(_00180015="FOOT"), ("BodyPartExamined",)) == (False, frozenset())


def test_an_attribute_that_is_there_and_empty_is_not_unknown():
    filters = Filters(body_parts=("CHEST",))
    assert filters.judge_answer(answer(_00180015=None), ("BodyPartExamined",)) == (False, frozenset())


def test_values_of_answers():
    assert value(answer(_00080060=" CR "), "00080060") == "CR"
    assert value(answer(_00080060=None), "00080060") == ""
    assert value({"00080060": {"vr": "CS", "Value": [None]}}, "00080060") == ""
    assert value({}, "00080060") is None
    assert value({"00080060": "nonsense"}, "00080060") is None
    assert count({"00201206": {"vr": "IS", "Value": [3]}}, "00201206") == 3
    assert count(answer(_00201206="many"), "00201206") is None


class Server:
    """So many objects, never more than ``most`` a page, that may not know limits or offsets, or get them wrong."""

    def __init__(self, objects: int, most: int = 10**6, *, knows: tuple[str, ...] = ("limit", "offset")) -> None:
        self.objects = [answer(_00080018=str(number)) for number in range(objects)]
        self.most, self.knows, self.asked = most, knows, 0

    def __call__(self, limit: int, offset: int) -> list[dict]:
        self.asked += 1
        length = min(self.most, limit if "limit" in self.knows else 10**6)
        if "offset after limit" in self.knows:
            return self.objects[:length][offset:]
        start = offset if "offset" in self.knows else 0
        return self.objects[start : start + length]


def found(server: Server, page: int) -> list[str | None]:
    return [value(a, "00080018") for a in pages(server, "00080018", page=page)]


@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 12))
def test_all_pages_are_found_whatever_the_servers_own_limit(objects, page, most):
    assert found(Server(objects, most), page) == [str(number) for number in range(objects)]


@given(
    st.integers(0, 60),
    st.integers(1, 12),
    st.sampled_from([("limit",), (), ("offset",), ("limit", "offset after limit")]),
)
def test_all_is_found_from_servers_that_page_wrongly(objects, page, knows):
    # One that has a page's worth and knows no offsets can't be told from one that stops there.
    if objects == page and "offset" not in knows and "offset after limit" not in knows:
        return
    assert found(Server(objects, knows=knows), page) == [str(number) for number in range(objects)]


def test_a_server_that_gives_its_first_page_for_ever_is_an_error():
    with pytest.raises(UserError, match="first 5 answers over and over"):
        found(Server(20, most=5, knows=("limit",)), 5)


def test_a_known_number_spares_the_last_query():
    server = Server(4)
    assert len(list(pages(server, "00080018", page=5, expected=4))) == 4
    assert server.asked == 1


def test_an_answer_without_uid_is_left_out():
    answers = [{}, answer(_00080018="1")]
    assert len(list(pages(lambda limit, offset: answers[offset : offset + limit], "00080018", page=5))) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modalities": ()}, "--modality: give at least one"),
        ({"modalities": ("C*",)}, "--modality 'C.': is no DICOM code"),
        ({"body_parts": ("x" * 17,)}, "--body-part"),
        ({"first": date(2020, 1, 2), "last": date(2020, 1, 1)}, "--from-date: is after --to-date"),
    ],
)
def test_filters_that_cannot_be_meant(arguments, message):
    with pytest.raises(UserError, match=message):
        Filters(**arguments)


def test_accession_numbers_are_read_in_order_and_once(tmp_path):
    (tmp_path / "list").write_text("\ufeffB2\n\n  A1 \r\nB2\n", encoding="utf-8")
    assert read_accessions(tmp_path / "list") == ("B2", "A1")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"ok\nA\\B\n", b"ok\n" + b"7" * 65, b"ok\nA\tB\n", b"\xff\xfe\x00"])
def test_a_bad_list_of_accession_numbers_is_told_without_quoting_it(tmp_path, content):
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_accessions(tmp_path / "list")
    assert not any(secret in str(caught.value) for secret in ("777", "A\\B", "A\tB"))
    with pytest.raises(UserError, match="cannot be read"):
        read_accessions(tmp_path / "nowhere")
