"""The episodes of a problem: those to learn from, to choose by and to test on.

No two of these ever share a system or a noise. Three bodies: test seeds 0..199, validation
5000..5099, training from 10 000 up. Flow: noises of the same numbers, training from 10 000 up in
ranges of `pool`, one for each training seed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.base.guidance import Guidance
from slimctl.jobs.storage.flows import open_guided
from slimctl.jobs.storage.store import Store
from slimctl.models.conditions import Among
from slimctl.models.flows.flow import Flow as RunnableFlow
from slimctl.models.steps.double_dqn import Evaluator
from slimctl.models.steps.environment import Environment, play
from slimctl.models.steps.flow_environment import FlowEnvironment, Noises, known_noises
from slimctl.models.steps.q_network import GreedyPolicy
from slimctl.models.steps.spec import FlowProblem, ThreeBodyProblem
from slimctl.models.steps.three_body_environment import (
    FIRST_TRAINING_SEED,
    VALIDATION_SEEDS,
    ThreeBodyEnvironment,
)

FLOW_VALIDATION = 128
"""Noises on which flow policies are chosen."""
NOISE_SEED = 0
STRETCHES = 32
"""Of the exact paths that training compares with."""


@dataclass(frozen=True)
class Lessons:
    """What one training seed learns from, and what evaluates it."""

    environment: Environment
    evaluator: Evaluator


def lessons(
    store: Store,
    problem: ThreeBodyProblem | FlowProblem,
    flow: Flow | None,
    count: int,
    number: int,
    seed: int,
    guidance: Guidance | None = None,
) -> Lessons:
    """Training episodes and what evaluates a training seed."""
    if isinstance(problem, ThreeBodyProblem):
        training = ThreeBodyEnvironment.training(problem, count, seed)
        return Lessons(training, _evaluator(lambda: three_body_validation(problem)))
    assert flow is not None
    runnable = open_guided(store, flow, guidance, device_here())
    first = FIRST_TRAINING_SEED + number * problem.pool
    noises = flow_noises(problem, flow, runnable, first, problem.pool, STRETCHES)
    held_out = flow_noises(problem, flow, runnable, VALIDATION_SEEDS[0], FLOW_VALIDATION)
    return Lessons(
        FlowEnvironment.training(problem, runnable, noises, count, seed),
        _evaluator(lambda: FlowEnvironment(problem, runnable, held_out)),
    )


def three_body_validation(problem: ThreeBodyProblem) -> ThreeBodyEnvironment:
    """The validation systems at the longest horizon."""
    return ThreeBodyEnvironment(problem, VALIDATION_SEEDS, max(problem.horizons))


def flow_noises(
    problem: FlowProblem,
    handle: Flow,
    flow: RunnableFlow,
    first: int,
    count: int,
    stretches: int = 0,
) -> Noises:
    """Noises first..first + count - 1 with their exact ends, and paths in so many stretches."""
    tolerance = problem.reference_tolerance
    counts = Among(handle.prompts.count) if handle.prompts else handle.label_counts
    relative = handle.autoencoder is not None
    return known_noises(
        flow, first, count, tolerance, NOISE_SEED, counts, stretches, relative=relative
    )


def device_here() -> torch.device:
    """A GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _evaluator(begin: Callable[[], Environment]) -> Evaluator:
    """Mean return over fresh copies of the same episodes."""

    def evaluate(policy: GreedyPolicy) -> float:
        return float(play(begin(), policy).returns.mean())

    return evaluate
