"""The plan on disk: it survives what kills the process, and leads nobody to a UID who isn't its owner."""

from __future__ import annotations

from nc_medfl.data.pacs.plan import Instance, Plan, Study

STUDIES = [Study("1.2", ("StudyDate",), 3), Study("1.3")]
INSTANCES = [Instance("1.2", "1.2.1", "1.2.1.1", ("StudyDate",)), Instance("1.2", "1.2.1", "1.2.1.2")]


def written(path):
    plan = Plan.open(path)
    plan.found(0, STUDIES)
    plan.expanded("1.2", INSTANCES)
    plan.reject("1.2.1.2")
    plan.close()
    return plan


def state(plan: Plan) -> tuple:
    return plan.asked, plan.studies, plan.listed, plan.instances, plan.unwanted


def test_a_plan_reads_back_as_it_was(tmp_path):
    first = written(tmp_path / "plan")
    again = Plan.open(tmp_path / "plan")
    assert state(again) == state(first)
    assert list(again.studies.values()) == STUDIES
    assert list(again.instances.values()) == INSTANCES
    assert (tmp_path / "plan").stat().st_mode & 0o777 == 0o600


def test_a_plan_cut_anywhere_knows_less_and_nothing_wrong(tmp_path):
    whole = written(tmp_path / "plan")
    content = (tmp_path / "plan").read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:length])
        plan = Plan.open(tmp_path / "cut")
        assert plan.asked <= whole.asked
        assert plan.studies.items() <= whole.studies.items()
        assert plan.instances.items() <= whole.instances.items()
        assert plan.unwanted <= whole.unwanted
        # What is noted after the cut stands.
        plan.expanded("1.9", [Instance("1.9", "1.9.1", "1.9.1.1")])
        plan.close()
        assert "1.9.1.1" in Plan.open(tmp_path / "cut").instances


def test_an_instance_of_two_studies_is_fetched_once(tmp_path):
    plan = Plan.open(tmp_path / "plan")
    plan.expanded("1.2", [Instance("1.2", "1.2.1", "5.5")])
    plan.expanded("1.3", [Instance("1.3", "1.3.1", "5.5")])
    assert plan.instances == {"5.5": Instance("1.2", "1.2.1", "5.5")}
