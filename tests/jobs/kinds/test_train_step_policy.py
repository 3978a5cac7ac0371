import pytest
from builders import FLOW_PROBLEM, step_policy
from pydantic import ValidationError
from safetensors.torch import load_file

from slimctl.jobs.base.artifacts import StepPolicy
from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.storage.flows import open_policy
from slimctl.models.steps.environment import play
from slimctl.models.steps.three_body_environment import ThreeBodyEnvironment


def test_policies_of_three_bodies(run_job, store, recorder):
    policy = run_job(step_policy())
    assert isinstance(policy, StepPolicy)
    assert (policy.problem_kind, policy.flow, policy.image) == ("three_body", "", None)
    assert len(set(policy.training_seeds)) == 2
    assert policy.best_return == max(policy.validation) == policy.validation[policy.chosen]
    assert store.file(policy, "curves.png").stat().st_size > 1000
    weights = load_file(store.file(policy, policy.file))
    assert {name.split(".")[0] for name in weights} == {"0", "1"}
    environment = ThreeBodyEnvironment(step_policy().problem, range(5), 4)
    played = play(environment, open_policy(store, policy))
    assert played.choices.max() <= 2
    said = recorder.said("progress")
    assert said[-1]["done"] == said[-1]["total"] == 60
    assert {"validation_0", "validation_1"} <= {key for one in said for key in one["metrics"]}


def test_a_flow_problem_needs_a_flow_and_three_bodies_none(refused):
    assert "no flow is named" in refused(step_policy(problem=FLOW_PROBLEM)).what
    assert "needs no flow" in refused(step_policy(flow="teacher"), flow=Facts()).what


def test_a_network_teacher_without_weights(attempt, store, make_model):
    flow = make_model()
    store.blobs.delete(f"artifacts/{flow.id}/{flow.file}")
    outcome = attempt(step_policy(problem=FLOW_PROBLEM, flow="flow", training_seeds=1), flow=flow)
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
        step_policy(**fields)


@pytest.mark.parametrize(
    ("seeds", "cluster", "needs"),
    [
        (3, Cluster(cpus=2), Needs(2, 0, parts=2)),
        (3, Cluster(cpus=8), Needs(3, 0, parts=3)),
        (2, Cluster(cpus=8, gpus=4), Needs(2, 0, parts=2)),
    ],
)
def test_it_takes_what_it_can_use(seeds, cluster, needs):
    assert step_policy(training_seeds=seeds).needs(cluster) == needs
