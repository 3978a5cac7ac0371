"""From a handle to something that chooses: step policies of the store."""

from functools import partial

from pydantic import TypeAdapter
from safetensors.torch import load_file

from jobs.base.artifacts import StepPolicy
from jobs.base.errors import UserError
from jobs.storage.store import Store
from models.stepping.q_network import GreedyPolicy
from models.stepping.spec import FlowProblem, Problem, ThreeBodyProblem
from models.stepping.three_body_environment import three_body_guess

_PROBLEM: TypeAdapter[ThreeBodyProblem | FlowProblem] = TypeAdapter(Problem)


def open_policy(store: Store, handle: StepPolicy, number: int | None = None) -> GreedyPolicy:
    """The policy of a training seed.

    Args:
        store: where it is.
        handle: of the policies.
        number: of the training seed, from 0; None = the one chosen on the validation episodes.

    Raises:
        DamagedArtifact: the file is not what its manifest says.
    """
    prefix = f"{handle.chosen if number is None else number}."
    every = load_file(store.file(handle, handle.file))
    weights = {
        name.removeprefix(prefix): value for name, value in every.items() if name.startswith(prefix)
    }
    problem = problem_of(handle)
    if isinstance(problem, ThreeBodyProblem):
        return GreedyPolicy(weights, partial(three_body_guess, problem))
    return GreedyPolicy(weights)


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
