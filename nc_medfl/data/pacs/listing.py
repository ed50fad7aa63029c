"""Which images match: studies, their series, their instances, each answer checked and noted in the plan."""

from __future__ import annotations

import re
from collections.abc import Callable

from nc_medfl.data.pacs.client import Archive, Refused, outcomes
from nc_medfl.data.pacs.plan import Instance, Plan, Study
from nc_medfl.data.pacs.query import (
    INSTANCES_OF_SERIES,
    SERIES_OF_STUDY,
    SERIES_UID,
    SOP_UID,
    STUDY_UID,
    count,
    pages,
    value,
)
from nc_medfl.data.pacs.settings import PacsSettings
from nc_medfl.errors import UserError

Progress = Callable[[int, int], None]

#: What can stand in an address; real archives hold UIDs that break the standard's rules.
_UID = re.compile(r"[0-9][0-9.]{0,127}")
_STUDY_LEVEL = ("StudyDate", "AccessionNumber")
_SERIES_LEVEL = ("Modality", "BodyPartExamined")


def list_images(
    settings: PacsSettings, archive: Archive, plan: Plan, progress: Progress
) -> tuple[tuple[str, str], ...]:
    """Ask which images match, as far as the plan doesn't know yet, and note it there.

    Args:
        settings: the query.
        archive: whom to ask.
        plan: what is known; grows.
        progress: called with (studies listed, studies).

    Returns:
        Studies whose images the archive did not list: (UID, reason).

    Raises:
        UserError: if the archive can't be used.
    """
    _find_studies(settings, archive, plan)
    waiting = [study for study in plan.studies.values() if study.uid not in plan.listed]
    failures: list[tuple[str, str]] = []
    progress(len(plan.listed), len(plan.studies))
    for study, outcome in outcomes(archive, lambda s: _expand(settings, archive, s), waiting, settings.requests):
        if isinstance(outcome, Refused):
            failures.append((study.uid, str(outcome)))
        else:
            plan.expanded(study.uid, outcome)
        progress(len(plan.listed) + len(failures), len(plan.studies))
    plan.sync()
    return tuple(failures)


def _find_studies(settings: PacsSettings, archive: Archive, plan: Plan) -> None:
    queries = settings.filters.study_queries()
    waiting = [number for number in range(len(queries)) if number not in plan.asked]

    def ask(number: int) -> list[Study]:
        answers = pages(
            lambda limit, offset: archive.search_studies(queries[number], limit, offset), STUDY_UID, page=settings.page
        )
        found = []
        for answer in answers:
            uid = value(answer, STUDY_UID) or ""
            fits, unknown = settings.filters.judge_answer(answer, _STUDY_LEVEL)
            if fits and _UID.fullmatch(uid):
                found.append(Study(uid, tuple(sorted(unknown)), count(answer, SERIES_OF_STUDY)))
        return found

    # One alone first: a wrong address or password is told once, and an account not locked by many attempts.
    for group in (waiting[:1], waiting[1:]):
        for number, outcome in outcomes(archive, ask, group, settings.requests):
            if isinstance(outcome, Refused):
                raise UserError(
                    f"{archive.shown}: refuses the search for studies ({outcome}). Check the path of its DICOMweb "
                    "service and what this user may see."
                )
            plan.found(number, outcome)


def _expand(settings: PacsSettings, archive: Archive, study: Study) -> list[Instance]:
    """The instances of a study that match, as far as answers can tell."""
    found = []
    for series in pages(
        lambda limit, offset: archive.search_series(study.uid, limit, offset),
        SERIES_UID,
        page=settings.page,
        expected=study.series,
    ):
        uid = value(series, SERIES_UID) or ""
        fits, unknown = settings.filters.judge_answer(series, _SERIES_LEVEL)
        if fits and _UID.fullmatch(uid):
            expected = count(series, INSTANCES_OF_SERIES)
            sops = _sops(settings, archive, study.uid, uid, expected)
            found += [Instance(study.uid, uid, sop, (*study.unknown, *sorted(unknown))) for sop in sops]
    return found


def _sops(settings: PacsSettings, archive: Archive, study: str, series: str, expected: int | None) -> list[str]:
    answers = pages(
        lambda limit, offset: archive.search_instances(study, series, limit, offset),
        SOP_UID,
        page=settings.page,
        expected=expected,
    )
    sops = (value(answer, SOP_UID) or "" for answer in answers)
    return [sop for sop in sops if _UID.fullmatch(sop)]
