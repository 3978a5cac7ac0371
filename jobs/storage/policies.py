"""From a handle to something that chooses: step policies of the store."""

from functools import partial

from pydantic import TypeAdapter
from safetensors.torch import load_file

from slimctl.jobs.base.artifacts import StepPolicy
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage.store import Store
from slimctl.models.steps.flow_walk import observation_size
from slimctl.models.steps.q_network import GreedyPolicy
from slimctl.models.steps.spec import FlowProblem, Problem, ThreeBodyProblem

_PROBLEM: TypeAdapter[ThreeBodyProblem | FlowProblem] = TypeAdapter(Problem)


def open_policy(store: Store, handle: StepPolicy, number: int | None = None) -> GreedyPolicy:
    """The policy of a training seed.

    Args:
        store: where it is.
        handle: of the policies.
        number: of the training seed, from 0; None = the one chosen on the validation episodes.

    Raises:
        DamagedArtifact: the file is not what its manifest says.
        UserError: an earlier version trained it, whose policies saw less of a flow.
    """
    problem = problem_of(handle)
    if isinstance(problem, FlowProblem):
        _check_view(handle, observation_size(len(problem.actions)))
    prefix = f"{handle.chosen if number is None else number}."
    every = load_file(store.file(handle, handle.file))
    weights = {
        name.removeprefix(prefix): value for name, value in every.items() if name.startswith(prefix)
    }
    if isinstance(problem, ThreeBodyProblem):
        from slimctl.models.steps.three_body_environment import (  # noqa: PLC0415  (numba)
            three_body_guess,
        )

        return GreedyPolicy(weights, partial(three_body_guess, problem))
    return GreedyPolicy(weights)


def _check_view(handle: StepPolicy, shown: int) -> None:
    """Raises UserError where a policy was trained to see other numbers than it would be shown."""
    if handle.observation_size != shown:
        raise UserError(
            handle.id,
            f"sees {handle.observation_size} numbers of a sample, and this version shows {shown}: "
            "an earlier version of slimctl trained it",
            "train it again: 'slimctl show' tells the command that made it",
        )


def problem_of(handle: StepPolicy) -> ThreeBodyProblem | FlowProblem:
    """What a policy decides about."""
    return _PROBLEM.validate_python(handle.problem)


def flow_problem(handle: StepPolicy) -> FlowProblem:
    """The flow problem of a policy.

    Raises:
        UserError: it was trained on three bodies.
    """
    problem = problem_of(handle)
    if not isinstance(problem, FlowProblem):
        raise UserError(
            handle.id,
            "chooses the steps of three-body systems, not those of a flow",
            "train a policy with problem: {kind: flow}",
        )
    return problem
