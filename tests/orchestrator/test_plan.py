import json

import pytest

from slimctl.orchestrator.plan import PlannedJob, RunPlan, as_event, twins
from slimctl.orchestrator.status import JobStatus


def job(name: str, artifact: str, *, action: str = "run", **inputs: str) -> PlannedJob:
    return PlannedJob(
        name=name, kind="load_dataset", fields={}, key=artifact, artifact=artifact, inputs=inputs,
        fingerprint={}, action=action, reason="not in the store",
    )  # fmt: skip


def plan(*jobs: PlannedJob) -> RunPlan:
    return RunPlan(name="digits", storage="/store", tracking=None, jobs=jobs)


@pytest.mark.parametrize(
    ("actions", "idle"),
    [("", True), (["reuse", "reuse"], True), (["reuse", "resume"], False), (["run"], False)],
)
def test_a_plan_is_idle_if_everything_is_there(actions, idle):
    jobs = [job(str(at), str(at), action=action) for at, action in enumerate(actions)]
    assert plan(*jobs).idle == idle


def test_jobs_that_ask_for_the_same_have_the_first_as_twin():
    made = plan(job("a", "x"), job("b", "y"), job("c", "x"), job("d", "x"), job("e", "y"))
    assert twins(made) == {"c": "a", "d": "a", "e": "b"}
    assert twins(plan(job("a", "x"), job("b", "y"))) == {}


def test_the_event_has_what_a_status_needs():
    details = as_event(plan(job("a", "x"), job("b", "y", a="x", c="z")))
    assert JobStatus.model_validate(details["jobs"]["b"]).after == ["a", "c"]
    assert json.loads(json.dumps(details)) == details
    assert (details["name"], details["tracking"]) == ("digits", None)


def test_a_plan_survives_json():
    made = plan(job("a", "x"), job("b", "y", a="x"))
    assert RunPlan.model_validate(made.model_dump(mode="json")) == made
