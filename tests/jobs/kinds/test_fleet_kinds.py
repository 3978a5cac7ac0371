"""match_teacher, match_distribution and assemble_fleet: what they make, keep and refuse."""

import pytest
import torch
from pydantic import ValidationError

from slimctl.jobs.base.artifacts import Flow, Generator
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.kinds.assemble_fleet import AssembleFleet
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.kinds.match_distribution import MatchDistribution
from slimctl.jobs.kinds.match_teacher import MatchTeacher
from slimctl.jobs.kinds.partition import SplitConditions
from slimctl.jobs.storage.tensors import load_weights
from slimctl.models.networks.registry import parse_network
from slimctl.models.spec import ImageShape

MLP = {"kind": "mlp", "width": 8, "layers": 1}
IMAGE = ImageShape(channels=1, size=4, classes=4)
TRAINING = {"steps": 4, "batch_size": 4, "learning_rate": 1e-3, "seed": 1, "shared": True}


@pytest.fixture
def data(make_dataset):
    return make_dataset(count=24, classes=4)


@pytest.fixture
def teacher(make_model, data):
    return make_model(label_counts=data.label_counts, seed=3)


@pytest.fixture
def pairs(make_pairs, teacher):
    return make_pairs(teacher, count=20)


@pytest.fixture
def partition(run_job, data):
    return run_job(SplitConditions(data="d", count=2), data=data)


@pytest.fixture
def matched(run_job, teacher, data):
    """`matched(partition=.., part=.., **fields)` runs a match_teacher."""

    def run(partition=None, **fields):
        names = {"teacher": "t", "data": "d", "network": MLP}
        place = {"partition": "p"} if partition else {}
        inputs = {"partition": partition} if partition else {}
        spec = MatchTeacher.model_validate(TRAINING | names | place | fields)
        return run_job(spec, teacher=teacher, data=data, **inputs)

    return run


@pytest.fixture
def students(run_job, teacher, data, matched):
    """`students(start=.., partition=.., part=.., **fields)` runs a match_distribution."""

    def run(start=None, partition=None, **fields):
        start = start or matched()
        names = {"teacher": "t", "data": "d", "start": "s", "score_every": 2, "score_samples": 20}
        place = {"partition": "p"} if partition else {}
        inputs = {"partition": partition} if partition else {}
        known = {name: fields.pop(name) for name in ("pairs", "fake") if name in fields}
        spec = MatchDistribution.model_validate(
            TRAINING | names | place | {name: name[0] + "x" for name in known} | fields
        )
        return run_job(spec, teacher=teacher, start=start, data=data, **inputs, **known)

    return run


def test_a_matched_teacher_is_a_flow_of_its_labels(matched, partition, teacher):
    flow = matched(partition, part=1)
    assert isinstance(flow, Flow)
    assert flow.label_counts == (0, 0, *teacher.label_counts[2:])
    assert (flow.part, flow.partition) == (1, partition.id)
    assert (flow.image, flow.prediction, flow.t_start) == (IMAGE, "velocity", 0.0)
    whole = matched()
    assert (whole.label_counts, whole.part) == (teacher.label_counts, None)


@pytest.mark.parametrize(
    "fields", [{}, {"adversarial": {}}, {"fake_updates": 2}], ids=["dmd2", "adversarial", "two"]
)
def test_a_student_of_a_part(students, matched, partition, store, fields):
    start = matched(partition, part=0)
    student = students(start, partition, part=0, **fields)
    assert isinstance(student, Generator)
    assert student.label_counts[2:] == (0, 0)
    assert (student.part, student.partition) == (0, partition.id)
    network = parse_network(student.network).build(IMAGE)
    load_weights(network, store, student)
    notes = store.manifest(student.id).engine
    assert (notes["score"], student.chosen_by) == ("pixels", "")
    assert notes["best_score"] <= notes["start_score"]
    assert notes["best_step"] in (0, 2, 4)


def test_the_start_is_the_result_where_nothing_is_better(students, matched, store, recorder):
    start = matched()
    student = students(start, learning_rate=1.0, gradient_clip=None, steps=2)
    engine = store.manifest(student.id).engine
    assert engine["best_step"] == 0
    weights = [parse_network(MLP).build(IMAGE) for _ in range(2)]
    for network, handle in zip(weights, (start, student), strict=True):
        load_weights(network, store, handle)
    both = zip(weights[0].parameters(), weights[1].parameters(), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in both)
    assert "no weights scored better than the start" in recorder.said("warning")[-1]["message"]


def test_pairs_steady_the_student(students, pairs, store):
    student = students(pairs=pairs, pair_batch=2)
    assert store.manifest(student.id).engine["last_score"] > 0


def test_a_reflowed_student_and_a_distilled_one_may_start(run_job, students, pairs, teacher):
    network = {"network": MLP, "pairs": "p"}
    reflowed = run_job(AnnealReflow.model_validate(TRAINING | network), pairs=pairs)
    distilled = run_job(
        Distill.model_validate(TRAINING | network | {"two_step_weight": 0}), pairs=pairs
    )
    for start in (reflowed, distilled):
        assert students(start).parameters == start.parameters


def test_slimflow_students_of_a_part_make_a_fleet(run_job, pairs, partition):
    made = []
    for part in range(2):
        place = {"partition": "x", "part": part, "pairs": "p"}
        inputs = {"pairs": pairs, "partition": partition}
        flow = run_job(AnnealReflow.model_validate(TRAINING | place | {"network": MLP}), **inputs)
        guided = {"start": "s", "guide": "s", "two_step_batch": 4}
        spec = Distill.model_validate(TRAINING | place | guided)
        refs = {"pairs": pairs, "start": flow, "guide": flow, "partition": partition}
        made.append((flow, run_job(spec, **refs)))
    for members in zip(*made, strict=True):
        inputs = {f"students.{at}": each for at, each in enumerate(members)}
        fleet = run_job(
            AssembleFleet(partition="x", students=tuple(inputs)), partition=partition, **inputs
        )
        assert [type(each) for each in fleet.members] == [type(each) for each in members]
        assert fleet.label_counts == pairs.label_counts


def test_a_fleet_is_ordered_by_part_and_counts_its_weights(run_job, students, matched, partition):
    made = [students(matched(partition, part=part), partition, part=part) for part in (0, 1)]
    inputs = {"students.0": made[1], "students.1": made[0]}
    fleet = run_job(
        AssembleFleet(partition="p", students=("b", "a")), partition=partition, **inputs
    )
    assert [each.part for each in fleet.members] == [0, 1]
    assert fleet.members[0].id == made[0].id
    assert fleet.parameters == made[0].parameters
    assert fleet.parameters_total == 2 * made[0].parameters
    assert fleet.label_counts == (6, 6, 6, 6)


def test_a_critic_smaller_than_the_teacher_is_warned_of(students, matched, recorder, teacher):
    small = matched()
    assert small.parameters < teacher.parameters
    students(fake=small)
    reported = [each["message"] for each in recorder.said("warning")]
    assert any("smaller than the teacher" in each and "collapses" in each for each in reported)


# What is refused before anything starts


def match(**changes):
    fields = {"teacher": "t", "data": "d", "start": "s"}
    return MatchDistribution.model_validate(TRAINING | fields | changes)


KNOWN = {
    "teacher": Facts(IMAGE, flip_valid=False),
    "start": Facts(IMAGE),
    "data": Facts(IMAGE),
    "partition": Facts(parts=2),
}
PLAIN = Facts(IMAGE.model_copy(update={"classes": 0}), flip_valid=False)


@pytest.mark.parametrize(
    ("fields", "known", "field", "reported"),
    [
        ({"partition": "p", "part": 2}, {}, "part", "part is 2, but 'p' has 2 parts"),
        (
            {"partition": "p", "part": 0},
            {"teacher": PLAIN},
            "teacher",
            "'t' is unconditional, so it has no labels to split",
        ),
        ({}, {"start": PLAIN}, "start", "differ from those of 't'"),
        ({}, {"data": PLAIN}, "data", "differ from those of 't'"),
        ({}, {"start": Facts(IMAGE, closed_form=True)}, "start", "which has no weights"),
        ({}, {"teacher": Facts(IMAGE, closed_form=True)}, "fake", "cannot be trained"),
        ({"flip": True}, {}, "flip", "not valid"),
    ],
)
def test_contradictions_are_reported_before_anything_runs(fields, known, field, reported):
    with pytest.raises(FieldError, match=reported) as caught:
        match(**fields).expect(KNOWN | known)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("fields", "reported"),
    [
        ({"part": 0}, "partition and part go together"),
        ({"partition": "p"}, "partition and part go together"),
        ({"network": MLP}, "either start"),
        ({"start": None}, "either start"),
        ({"pair_batch": 4}, "pair_batch needs pairs"),
        ({"workers": 2}, "shared: true trains in one process, not in 2 workers"),
    ],
)
def test_fields_that_do_not_go_together(fields, reported):
    with pytest.raises(ValidationError, match=reported):
        match(**fields)


@pytest.mark.parametrize(
    ("parts", "reported"),
    [
        ((0, 0), "'a' and 'b' serve the same part 0 of 'p'"),
        ((0, None), "'b' serves all labels, no part of 'p'"),
        ((0, 2), "no student serves part 1 of 'p'"),
    ],
)
def test_a_fleet_has_one_student_of_each_part(parts, reported):
    known = {
        f"students.{at}": Facts(IMAGE, part=part, made="Generator") for at, part in enumerate(parts)
    }
    spec = AssembleFleet(partition="p", students=("a", "b"))
    with pytest.raises(FieldError, match=reported):
        spec.expect(known | {"partition": Facts(parts=2)})


def test_a_fleet_is_of_one_kind():
    known = {
        "students.0": Facts(IMAGE, part=0, made="Generator"),
        "students.1": Facts(IMAGE, part=1, made="Flow"),
        "partition": Facts(parts=2),
    }
    with pytest.raises(FieldError, match="two kinds: Flow and Generator"):
        AssembleFleet(partition="p", students=("a", "b")).expect(known)


def test_students_of_another_partition_are_refused(attempt, run_job, data, matched, partition):
    other = run_job(SplitConditions(data="d", method="strided", count=2), data=data)
    made = [matched(other, part=0), matched(partition, part=1)]
    inputs = {f"students.{at}": each for at, each in enumerate(made)}
    done = attempt(AssembleFleet(partition="p", students=("a", "b")), partition=partition, **inputs)
    assert done.failure == "UserError"
    assert "'a' was made for another partition than 'p'" in done.what
