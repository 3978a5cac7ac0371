import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from slimctl.jobs.base.artifacts import StepPolicy, StepReport
from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.kinds.evaluate_step_policy import EvaluateStepPolicy
from slimctl.jobs.kinds.fit_step_grid import FitStepGrid
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.kinds.train_step_policy import TrainStepPolicy
from slimctl.jobs.pairs.shards import read_pairs
from slimctl.jobs.steps import train
from slimctl.jobs.storage.flows import flow_problem, open_policy
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.models.pixels import to_float
from slimctl.models.spec import ImageShape
from slimctl.models.steps.environment import play
from slimctl.models.steps.three_body_environment import ThreeBodyEnvironment

LEARNER = {
    "hidden": [8], "environments": 4, "decisions": 60, "updates": 1, "batch_size": 16,
    "replay": 100, "warmup": 8, "validate_every": 30,
}  # fmt: skip
THREE_BODY = {"kind": "three_body", "actions": [0.05, 0.1, 0.3], "horizons": [3, 6], "hold": 2}
FLOW = {"kind": "flow", "actions": [0.1, 0.2, 0.4], "pool": 8, "reference_tolerance": 1e-4}


def spec(**changes) -> TrainStepPolicy:
    fields = {"problem": THREE_BODY, "learner": LEARNER, "training_seeds": 2, "seed": 3}
    return TrainStepPolicy.model_validate(fields | changes)


@pytest.fixture
def flow_policy(run_job, make_dataset, make_analytic, monkeypatch):
    """A policy trained for a moment on a closed form, with its flow and data."""
    from slimctl.jobs.steps import episodes

    monkeypatch.setattr(episodes, "FLOW_VALIDATION", 4)
    data = make_dataset(count=6, classes=2)
    flow = make_analytic(data, conditional=True)
    policy = run_job(spec(problem=FLOW, flow="flow", training_seeds=1), flow=flow)
    return policy, flow, data


def test_policies_of_three_bodies(run_job, store, recorder):
    policy = run_job(spec())
    assert isinstance(policy, StepPolicy)
    assert (policy.problem_kind, policy.flow, policy.image) == ("three_body", "", None)
    assert len(set(policy.training_seeds)) == 2
    assert policy.best_return == max(policy.validation) == policy.validation[policy.chosen]
    assert store.file(policy, "curves.png").stat().st_size > 1000
    weights = load_file(store.file(policy, policy.file))
    assert {name.split(".")[0] for name in weights} == {"0", "1"}
    environment = ThreeBodyEnvironment(spec().problem, range(5), 4)
    played = play(environment, open_policy(store, policy))
    assert played.choices.max() <= 2
    said = recorder.said("progress")
    assert said[-1]["done"] == said[-1]["total"] == 60
    assert {"validation_0", "validation_1"} <= {key for one in said for key in one["metrics"]}


def test_the_same_job_makes_the_same_policy(attempt, store):
    one, two = (attempt(spec(training_seeds=1), artifact=f"train_step_policy-{n}") for n in "ab")
    first, second = (
        load_file(store.file(store.load_any(each.artifact_id), "policy.safetensors"))
        for each in (one, two)
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_killed_training_goes_on_where_it_was(attempt, store, monkeypatch):
    asked = spec(training_seeds=1, checkpoint_s=1e-6)
    whole = attempt(asked, artifact="train_step_policy-whole")
    saves = []

    def dies(folder, state, seconds):
        kept(folder, state, seconds)
        saves.append(state.notes["counters"]["decisions"])
        if len(saves) == 7:
            raise ConnectionError("the machine is gone")

    kept = train.save_state
    monkeypatch.setattr(train, "save_state", dies)
    first = attempt(asked, artifact="train_step_policy-killed")
    assert first.retry
    monkeypatch.setattr(train, "save_state", kept)
    second = attempt(asked, artifact="train_step_policy-killed")
    assert second.failure is None
    assert saves == [4, 8, 12, 16, 20, 24, 28]
    one, two = (
        load_file(store.file(store.load_any(each.artifact_id), "policy.safetensors"))
        for each in (whole, second)
    )
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_checkpoint_is_believed_whole_or_not_at_all(store):
    from slimctl.jobs.steps.train import load_state, save_state
    from slimctl.models.steps.double_dqn import LearnerState

    folder = store.work("train_step_policy-x").below("seed-0")
    assert load_state(folder) is None
    save_state(folder, LearnerState({"a": torch.ones(3)}, {"n": 2**100}), 1.5)
    save_state(folder, LearnerState({"a": torch.zeros(3)}, {"n": 2**101}), 2.5)
    state, seconds = load_state(folder)
    assert (seconds, state.notes["n"], state.tensors["a"].tolist()) == (2.5, 2**101, [0, 0, 0])
    assert len(folder.names()) == 2
    pointer = json.loads(folder.read("state.json"))
    folder.write(pointer["file"], b"damaged")
    assert load_state(folder) is None


def test_a_report_on_three_bodies(run_job, store):
    policy = run_job(spec())
    asked = EvaluateStepPolicy(policy="policy", episodes=4, intervals=6)
    report = run_job(asked, policy=policy)
    assert isinstance(report, StepReport)
    names = [row.name for row in report.rows]
    assert names == ["mu 0.03", "mu 0.05", "mu 0.1", "mu 0.3", "policy, seed 0", "policy, seed 1"]
    groups = {row.group for row in report.transfer}
    assert groups == {
        "leapfrog, time_scale", "yoshida4, time_scale", "hermite, fixed", "leapfrog, fixed",
        "yoshida4, fixed",
    }  # fmt: skip
    assert all(row.return_low <= row.mean_return <= row.return_high for row in report.rows)
    fixed = [row for row in report.rows if not row.learned]
    assert report.best_fixed_return == max(row.mean_return for row in fixed)
    assert report.bad_error == 1e-4
    strict = run_job(asked.model_copy(update={"tolerance": 1e-15}), policy=policy)
    assert strict.bad_error == 1e-15
    assert strict.rows[0].bad_share > report.rows[0].bad_share
    assert [row.mean_return for row in strict.rows] == [row.mean_return for row in report.rows]
    for name in ("pareto.png", "trajectory.png", "actions.png"):
        assert store.file(report, name).read_bytes()[:4] == b"\x89PNG"


def test_a_report_on_a_flow(run_job, store, flow_policy):
    policy, flow, _ = flow_policy
    report = run_job(
        EvaluateStepPolicy(policy="policy", flow="flow", episodes=6), policy=policy, flow=flow
    )
    groups = list(dict.fromkeys(row.group for row in report.rows))
    assert groups == [
        "policy", "fixed step", "even grid, rk23", "even grid, heun", "rk45", "rk23",
    ]  # fmt: skip
    tight = next(row for row in report.rows if row.name == "rk45 1.0e-05")
    assert tight.bad_share == 0.0
    assert report.bad_error == 2.3e-3
    asked = EvaluateStepPolicy(policy="policy", flow="flow", episodes=6, tolerance=1e-9)
    strict = run_job(asked, policy=policy, flow=flow)
    assert (strict.bad_error, strict.policy_bad_share) == (1e-9, 1.0)
    assert [row.mean_return for row in strict.rows] == [row.mean_return for row in report.rows]
    assert tight.mean_cost > next(r for r in report.rows if r.name == "rk45 1.0e-01").mean_cost
    assert store.file(report, "pareto.png").stat().st_size > 1000


def test_a_fitted_grid_is_in_the_same_table(run_job, flow_policy):
    policy, flow, _ = flow_policy
    fit = {"flow": "flow", "evaluations": 5, "samples": 8, "held_out": 8, "rounds": 0, "seed": 0}
    grid = run_job(FitStepGrid.model_validate(fit), flow=flow)
    asked = EvaluateStepPolicy(policy="policy", flow="flow", grids=("grid",), episodes=6)
    report = run_job(asked, policy=policy, flow=flow, **{"grids.0": grid})
    row = next(row for row in report.rows if row.group == "fitted grid")
    assert (row.name, row.mean_cost, row.learned) == ("grid, 5 evaluations", 5.0, False)


@pytest.mark.parametrize(
    ("policy", "grid", "told"),
    [
        (Facts(problem="three_body"), Facts(), "no fitted grids"),
        (
            Facts(ImageShape(channels=1, size=4), problem="flow"),
            Facts(ImageShape(channels=1, size=8)),
            "another shape",
        ),
    ],
)
def test_a_grid_that_does_not_belong_is_refused(policy, grid, told):
    flow = None if policy.problem == "three_body" else "flow"
    asked = EvaluateStepPolicy(policy="policy", flow=flow, grids=("grid",))
    with pytest.raises(FieldError, match=told):
        asked.expect({"policy": policy, "grids.0": grid})


def test_pairs_by_a_policy(run_job, store, flow_policy):
    policy, flow, data = flow_policy
    made = []
    for batch in (1, 4):
        asked = GeneratePairs.model_validate(
            {"flow": "flow", "count": 8, "shard_size": 4, "batch_size": batch, "seed": 5,
             "solver": "policy"}
        )  # fmt: skip
        made.append(run_job(asked, flow=flow, solver=policy))
    one, two = (read_pairs(store, pairs).float() for pairs in made)
    assert (one - two).abs().max() < 2e-3
    assert made[0].nfe == made[1].nfe
    assert 6 <= made[0].nfe <= 30
    real = to_float(load_dataset_tensors(store, data)[0])
    assert torch.cdist(one.flatten(1), real.flatten(1)).min(1).values.median() < 1.0


def test_a_policy_on_a_problem_it_was_not_trained_for(refused, attempt, run_job, flow_policy):
    policy, flow, _ = flow_policy
    bodies = run_job(spec(training_seeds=1))
    pairs = GeneratePairs.model_validate({"flow": "f", "count": 4, "solver": "p", "shard_size": 4})
    error = refused(pairs, flow=Facts(flow.image), solver=Facts(problem="three_body"))
    assert (error.field, "trained on three-body systems" in error.what) == ("solver", True)
    other = ImageShape(channels=3, size=8)
    error = refused(pairs, flow=Facts(flow.image), solver=Facts(other, problem="flow"))
    assert "another shape" in error.what
    outcome = attempt(pairs, flow=flow, solver=bodies)
    assert (outcome.failure, outcome.where) == ("UserError", "job 'it', solver")
    error = refused(
        EvaluateStepPolicy(policy="p", flow="f"), policy=Facts(problem="three_body"), flow=Facts()
    )
    assert "trained on three bodies" in error.what
    error = refused(EvaluateStepPolicy(policy="p"), policy=Facts(other, problem="flow"))
    assert "no flow is named" in error.what
    error = refused(
        EvaluateStepPolicy(policy="p", flow="f"),
        policy=Facts(other, problem="flow"), flow=Facts(flow.image),
    )  # fmt: skip
    assert "another shape" in error.what
    with pytest.raises(Exception, match="three-body systems, not those of a flow"):
        flow_problem(bodies)
    assert flow_problem(policy).pool == 8


def test_a_policy_of_an_earlier_version_is_refused(store, flow_policy):
    policy, _, _ = flow_policy
    assert policy.observation_size == 13
    with pytest.raises(Exception, match="sees 7 numbers of a sample, and this version shows 13"):
        open_policy(store, policy.model_copy(update={"observation_size": 7}))


def test_another_flow_of_the_same_shape_is_a_warning(
    run_job, recorder, make_model, make_dataset, make_analytic, flow_policy
):
    policy, _, _ = flow_policy
    other = make_analytic(make_dataset(count=8, classes=2), conditional=True)
    run_job(EvaluateStepPolicy(policy="p", flow="f", episodes=2), policy=policy, flow=other)
    assert "another flow" in recorder.said("warning")[0]["message"]


def test_a_grid_of_another_flow_is_a_warning(
    run_job, recorder, make_dataset, make_analytic, flow_policy
):
    policy, flow, _ = flow_policy
    other = make_analytic(make_dataset(count=8, classes=2), conditional=True)
    fit = {"flow": "flow", "evaluations": 5, "samples": 8, "held_out": 8, "rounds": 0, "seed": 0}
    grid = run_job(FitStepGrid.model_validate(fit), flow=other)
    asked = EvaluateStepPolicy(policy="p", flow="f", grids=("g",), episodes=2)
    run_job(asked, policy=policy, flow=flow, **{"grids.0": grid})
    (said,) = recorder.said("warning")
    assert said["message"].startswith("grid '")
    assert said["message"].endswith(f"was fitted to another flow, {other.id}")


def test_more_test_systems_than_there_are(refused):
    error = refused(
        EvaluateStepPolicy(policy="p", episodes=201), policy=Facts(problem="three_body")
    )
    assert error.field == "episodes"


def test_a_flow_problem_needs_a_flow_and_three_bodies_none(refused):
    assert "no flow is named" in refused(spec(problem=FLOW)).what
    assert "needs no flow" in refused(spec(flow="teacher"), flow=Facts()).what


def test_a_network_teacher_without_weights(attempt, store, make_model):
    flow = make_model()
    store.blobs.delete(f"artifacts/{flow.id}/{flow.file}")
    outcome = attempt(spec(problem=FLOW, flow="flow", training_seeds=1), flow=flow)
    assert outcome.failure == "DamagedArtifact"
    assert "weights.safetensors" in outcome.what


@pytest.mark.parametrize(
    "fields",
    [
        {"problem": {"kind": "three_body", "actions": [0.1, 0.05]}},
        {"problem": {"kind": "pendulum"}},
        {"training_seeds": 0},
        {"learner": {"gamma": 1.5}},
    ],
)
def test_settings_that_cannot_be(fields):
    with pytest.raises(ValidationError):
        spec(**fields)


@pytest.mark.parametrize(
    ("seeds", "cluster", "needs"),
    [
        (3, Cluster(cpus=2), Needs(cpus=2, gpus=0)),
        (3, Cluster(cpus=8), Needs(cpus=3, gpus=0)),
        (2, Cluster(cpus=8, gpus=4), Needs(cpus=0, gpus=2)),
    ],
)
def test_it_takes_what_it_can_use(seeds, cluster, needs):
    assert spec(training_seeds=seeds).needs(cluster) == needs
