"""What is known of a fleet before it is made, and students that do not go together."""

import pytest

from slimctl.jobs.base.artifacts import Generator
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.kinds.assemble_fleet import AssembleFleet
from slimctl.jobs.kinds.partition import SplitConditions
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=1, size=4, classes=4)
SPEC = AssembleFleet(partition="p", students=("a", "b"))


@pytest.fixture
def partition(run_job, make_dataset):
    return run_job(SplitConditions(data="d", count=2), data=make_dataset(count=24, classes=4))


@pytest.fixture
def make_student(make_model, commit, partition):
    """`make_student(part, cls, **changes)`: untrained, of a part of the partition."""

    def make(part, cls=Generator, **changes):
        counts = tuple(6 if label // 2 == part else 0 for label in range(4))
        model = make_model(cls, label_counts=counts, seed=part)
        place = {"part": part, "partition": partition.id, "id": ""}
        return commit(model.model_copy(update=place | changes), f"{model.id}-{part}")

    return make


@pytest.mark.parametrize(("made", "one_step"), [("Flow", False), ("Generator", True), ("", None)])
def test_what_students_are_is_known_of_the_fleet(made, one_step):
    known = {
        f"students.{part}": Facts(IMAGE, part=part, made=made, flip_valid=part == 0)
        for part in range(2)
    }
    facts = SPEC.expect(known | {"partition": Facts(parts=2)})
    assert (facts.image, facts.one_step, facts.flip_valid) == (IMAGE, one_step, False)


def test_parts_are_looked_at_when_all_students_are_known():
    whole = Facts(IMAGE, made="Flow")
    for known in ({}, {"students.0": whole}, {"students.0": whole, "students.1": Facts()}):
        SPEC.expect(known | {"partition": Facts(parts=2)})


def test_a_fleet_of_what_goes_together(run_job, make_student, partition):
    students = {f"students.{part}": make_student(part, flip_valid=True) for part in range(2)}
    fleet = run_job(SPEC, partition=partition, **students)
    assert (fleet.image, fleet.subsets, fleet.partition) == (IMAGE, ((0, 1), (2, 3)), partition.id)
    assert (fleet.flip_valid, fleet.t_start) == (True, 0.0)


@pytest.mark.parametrize(
    "other",
    [
        {"t_start": 0.1},
        {"image": IMAGE.model_copy(update={"size": 8})},
    ],
    ids=["start", "images"],
)
def test_students_that_differ_are_refused(attempt, make_student, partition, other):
    students = {"students.0": make_student(0), "students.1": make_student(1, **other)}
    done = attempt(SPEC, partition=partition, **students)
    assert (done.failure, done.where) == ("UserError", "job 'it'")
    assert done.what == "'b' and 'a' differ in kind, images or start"
    assert done.fix == "make all students in the same way"
