"""Policies as solvers: only of what they were trained for."""

import pytest
import torch
from builders import step_policy

from slimctl.jobs.base.facts import Facts
from slimctl.jobs.kinds.evaluate_step_policy import EvaluateStepPolicy
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.pairs.shards import read_pairs
from slimctl.jobs.storage.flows import flow_problem, open_policy
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.models.pixels import to_float
from slimctl.models.spec import ImageShape


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


def test_a_policy_on_a_problem_it_was_not_trained_for(refused, attempt, commit, flow_policy):
    policy, flow, _ = flow_policy
    other_problem = {"problem": step_policy().problem.model_dump(), "problem_kind": "three_body"}
    bodies = commit(policy.model_copy(update=other_problem), "train_step_policy-bodies")
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
