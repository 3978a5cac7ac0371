"""Quality by part and class, and what a fleet's report says of it."""

import numpy as np
import pytest
import torch

from slimctl.jobs.base.artifacts import Fleet, Flow, Generator, Partition
from slimctl.jobs.evaluation import quality
from slimctl.jobs.evaluation.reference import floor_draws
from slimctl.jobs.evaluation.sampling import open_sampler
from slimctl.jobs.evaluation.subsets import subset_qualities
from slimctl.jobs.export.samples import write_samples
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.jobs.kinds.train_features import TrainFeatures
from slimctl.jobs.storage.flows import open_flow
from slimctl.models.metrics.frechet import frechet_distance
from slimctl.models.metrics.gaussians import Gaussian
from slimctl.models.metrics.precision_recall import precision_recall
from slimctl.models.solvers.spec import EulerSpec

CPU = torch.device("cpu")
SUBSETS = ((0, 3), (1, 2))
SMALL = {"kind": "classifier", "channels": 4, "channel_multipliers": [1], "features": 3}


def table(seed, count):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    return torch.randn(count, 5, generator=generator) + labels[:, None], labels


def test_a_subset_is_measured_on_its_own_rows():
    real, own = table(0, 200), table(1, 160)
    found = subset_qualities(real, own, SUBSETS, neighbours=3)
    assert [each.labels for each in found] == list(SUBSETS)
    for each, labels in zip(found, SUBSETS, strict=True):
        theirs, ours = (x[torch.isin(y, torch.tensor(labels))] for x, y in (real, own))
        assert (each.real, each.samples) == (len(theirs), len(ours))
        statistics = [Gaussian.from_features(rows) for rows in (theirs, ours)]
        assert each.fid == pytest.approx(frechet_distance(*statistics))
        draws = [theirs[index] for index in floor_draws(len(theirs), len(ours), 5)]
        drawn = [frechet_distance(statistics[0], Gaussian.from_features(rows)) for rows in draws]
        assert each.fid_real == pytest.approx(np.mean(drawn))
        assert each.fid_real_sd == pytest.approx(np.std(drawn, ddof=1))
        assert 0 < each.precision <= 1


def test_precision_is_of_equal_counts():
    real, own = table(0, 300), table(1, 100)
    found = subset_qualities(real, own, [range(4)], neighbours=3)[0]
    whole = precision_recall(real[0], own[0], 3)
    assert found.precision != whole.precision or found.recall != whole.recall
    same = subset_qualities(own, own, [range(4)], neighbours=3)[0]
    assert (same.precision, same.recall, same.fid) == (1.0, 1.0, pytest.approx(0, abs=1e-9))


def test_too_small_a_subset_is_left_out():
    real, own = table(0, 200), table(1, 200)
    keep = (own[1] != 2) | (torch.arange(200) < 60)
    found = subset_qualities(real, (own[0][keep], own[1][keep]), [(2,), (1,)], neighbours=3)
    assert [each.labels for each in found] == [(1,)]
    few = subset_qualities(real, own, [(0,)], neighbours=150)[0]
    assert (few.precision, few.recall) == (None, None)


def test_classes_of_few_images_are_left_out_and_it_is_said(
    run_job, make_dataset, make_model, recorder
):
    data = make_dataset(count=120, classes=4)
    features = run_job(
        TrainFeatures(data="d", network=SMALL, steps=2, batch_size=4, seed=0), data=data
    )
    model = make_model(Generator, label_counts=(1, 1, 1, 37))
    report = run_job(spec(), model=model, data=data, features=features)
    assert [each.labels for each in report.classes] == [(3,)]
    said = [event["message"] for event in recorder.said("warning")]
    assert any("3 of 4 classes have no figures of their own" in line for line in said)


@pytest.fixture
def inputs(run_job, make_dataset, monkeypatch):
    monkeypatch.setattr(quality, "LATENCY_BUDGET_MS", 5.0)
    monkeypatch.setattr(quality, "ROUTED_REQUESTS", 20)
    data = make_dataset(count=80, classes=4)
    training = TrainFeatures(data="d", network=SMALL, steps=2, batch_size=4, seed=0)
    return {"data": data, "features": run_job(training, data=data)}


@pytest.fixture
def fleet(make_model, commit, inputs):
    """`fleet(Generator)`: two students with weights of their own."""

    def make(cls=Generator):
        counts = inputs["data"].label_counts
        members = tuple(
            make_model(cls, label_counts=counts, seed=seed).model_copy(
                update={"part": seed, "partition": "partition-1"}
            )
            for seed in range(2)
        )
        each = members[0].parameters
        handle = Fleet(
            image=members[0].image,
            members=members,
            subsets=SUBSETS,
            partition="partition-1",
            label_counts=counts,
            parameters=each,
            parameters_total=2 * each,
        )
        return commit(handle, f"assemble_fleet-{cls.__name__}")

    return make


def spec(**changes):
    fields = {"model": "m", "data": "d", "features": "f", "samples": 160, "seed": 0}
    return Evaluate.model_validate(fields | changes)


@pytest.mark.parametrize(("cls", "solver"), [(Generator, None), (Flow, EulerSpec(steps=2))])
def test_a_fleet_is_measured_as_one_model(run_job, fleet, inputs, cls, solver):
    model = fleet(cls)
    report = run_job(spec(solver=solver), model=model, **inputs)
    assert report.model_type == "Fleet"
    assert (report.parameters, report.parameters_total) == (
        model.parameters,
        2 * model.parameters,
    )
    assert report.macs > 0
    assert report.routing_us > 0
    assert report.latency_ms > 0
    assert [each.labels for each in report.parts] == list(SUBSETS)
    assert sum(each.samples for each in report.parts) == 160
    assert sum(each.real for each in report.parts) == 80
    assert [each.labels for each in report.classes] == [(0,), (1,), (2,), (3,)]
    assert report.nfe == (2 if solver else 1)


def test_the_joint_distance_is_no_mean_of_the_parts(run_job, fleet, inputs):
    report = run_job(spec(), model=fleet(), **inputs)
    mean = sum(each.fid for each in report.parts) / 2
    assert report.fid != pytest.approx(mean, rel=1e-3)


def test_a_single_model_is_reported_by_the_parts_of_a_partition(
    run_job, make_model, commit, inputs
):
    partition = commit(Partition(subsets=SUBSETS, method="explicit"), "partition-1")
    model = make_model(Generator, label_counts=inputs["data"].label_counts)
    report = run_job(spec(partition="p"), model=model, partition=partition, **inputs)
    assert [each.labels for each in report.parts] == list(SUBSETS)
    assert report.routing_us is None
    assert report.parameters_total == report.parameters


def test_a_student_of_a_part_is_not_measured_alone(attempt, fleet, commit, inputs):
    student = commit(fleet().members[1], "match_distribution-alone")
    done = attempt(spec(), model=student, **inputs)
    assert done.failure == "UserError"
    assert "serves part 1 of the labels only" in done.what
    assert "assemble_fleet" in done.fix


@pytest.mark.parametrize(
    ("cls", "solver", "message"),
    [(Generator, EulerSpec(steps=2), "takes no solver"), (Flow, None, "needs a solver")],
)
def test_a_fleet_takes_a_solver_as_its_students_do(attempt, fleet, inputs, cls, solver, message):
    assert message in attempt(spec(solver=solver), model=fleet(cls), **inputs).what


def test_samples_of_a_fleet_are_those_of_the_students(store, fleet):
    model = fleet(Flow)
    sampler = open_sampler(store, model, EulerSpec(steps=2), CPU)
    index = torch.arange(12)
    x0, label = sampler.noise(3, index), sampler.labels(3, index)
    made, _ = sampler.generate(x0, label)
    for number, labels in enumerate(SUBSETS):
        rows = torch.isin(label, torch.tensor(labels))
        student = open_flow(store, model.members[number], CPU)
        expected = x0[rows]
        for step in range(2):
            t = torch.full((len(expected),), step / 2)
            expected = expected + 0.5 * student.velocity(expected, t, label[rows])
        torch.testing.assert_close(made[rows], expected)


def test_a_fleet_writes_samples(store, fleet, tmp_path):
    model = fleet()
    write_samples(store, model.id, tmp_path / "grid.png", count=6, seed=0)
    write_samples(store, model.id, tmp_path / "grid.npz", count=6, seed=0, label=2)
    assert (tmp_path / "grid.png").read_bytes()[1:4] == b"PNG"
