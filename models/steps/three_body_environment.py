"""The three-body problem as a decision process: each system gets a step parameter now and then."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from slimctl.models.steps.environment import (
    Arrays,
    Environment,
    Flags,
    Floats,
    Integers,
    Observation,
    Outcome,
    excess,
    logarithm,
)
from slimctl.models.steps.spec import PaperReward, TelescopingReward, ThreeBodyProblem
from slimctl.models.steps.three_body import (
    INTERVAL,
    Method,
    Motion,
    advance,
    closest_pair,
    evaluations_per_step,
    forces,
    initial_bodies,
)

TEST_SEEDS = range(200)
VALIDATION_SEEDS = range(5000, 5100)
FIRST_TRAINING_SEED = 10_000
LAST_TRAINING_SEED = 2**31
EXPECTED_EVALUATIONS = 20.0
"""Evaluations of an interval to come that a learner starts from: those of mu = 0.01."""
SMALLEST_SHARE = 0.1
"""Share of the tolerance below which an error is seen as this. Violent systems have larger errors;
a learner that tells apart errors that matter to nobody takes them for the cause of worse to come,
and stays with steps that are smaller than need be."""
FAILURE = -2.0
"""Reward on top for an episode whose energy error has become too large."""


class ThreeBodyEnvironment(Environment):
    """Systems of three bodies, each at an interval of its own.

    A policy sees eight numbers, of order 1: the share of the intervals done, log10 of the intervals
    left, of the last change of energy and of the drift over the tolerance, of the evaluations per
    interval, of T_c, of the closest distance and of that pair's relative speed. It does not see the
    last mu, which changes nothing of what is to come.
    With `state: paper` it sees positions / 10, velocities and -log10 |dE/E|, see `_paper_state`.
    """

    def __init__(
        self,
        problem: ThreeBodyProblem,
        seeds: Sequence[int],
        horizon: int | Integers,
        generator: np.random.Generator | None = None,
    ) -> None:
        """Begins an episode for each seed.

        horizon is the number of intervals of all episodes, or of each.
        """
        self.problem = problem
        self.actions = np.array(problem.actions)
        self.observation_size = 13 if problem.state == "paper" else 8
        self.ended: Flags = np.zeros(len(seeds), dtype=np.bool_)
        self._method = Method(problem.integrator, problem.control, problem.max_substeps)
        self._generator = generator or np.random.default_rng(0)
        self._motion = Motion.of_seeds(seeds)
        self._horizon = np.broadcast_to(np.int64(horizon), (len(seeds),)).copy()

    @classmethod
    def training(cls, problem: ThreeBodyProblem, count: int, seed: int) -> "ThreeBodyEnvironment":
        """Endless episodes of systems with seeds from 10 000 up, of lengths drawn from the spec."""
        generator = np.random.default_rng(seed)
        return cls(problem, *_draw(generator, problem, count), generator)

    def observe(self) -> Observation:
        motion = self._motion
        with np.errstate(all="ignore"):
            if self.problem.state == "paper":
                seen = _paper_state(motion)
            else:
                seen = self._scale_free_state(motion)
        return np.nan_to_num(seen, nan=0.0, posinf=10.0, neginf=-10.0).astype(np.float32)

    def _scale_free_state(self, motion: Motion) -> Floats:
        _, time_scale = forces(motion.masses, motion.phase)
        distance, speed = closest_pair(motion.phase)
        left = np.maximum(self._horizon - motion.interval, 1)
        tolerance = getattr(self.problem.reward, "tolerance", 1e-6)
        columns = (
            motion.interval / self._horizon,
            np.log10(left) / 2.0,
            logarithm(np.maximum(motion.change / tolerance, SMALLEST_SHARE)) / 2.0,
            logarithm(np.maximum(motion.drift / tolerance, SMALLEST_SHARE)) / 2.0,
            np.log10(1.0 + motion.evaluations / self._horizon),
            np.log10(time_scale),
            np.log10(distance),
            np.log10(speed),
        )
        return np.stack(columns, axis=1)

    def step(self, choice: Integers) -> Outcome:
        reward = np.zeros(len(self))
        for _ in range(self.problem.hold):
            rows = np.flatnonzero(~self.ended)
            if len(rows):
                reward[rows] += self._interval(rows, self.actions[choice[rows]])
        return Outcome(reward, self.ended.copy())

    def _interval(self, rows: Integers, mu: Floats) -> Floats:
        """Integrates systems over one interval and returns their rewards."""
        moving = self._motion.rows(rows)
        cost, drift = moving.evaluations + self._horizon[rows], moving.drift.copy()
        advance(moving, mu, 1, self._method)
        self._motion.put(rows, moving)
        if isinstance(self.problem.reward, PaperReward):
            reward = _paper_reward(self.problem.reward, moving, mu)
        else:
            ahead = moving.evaluations + self._horizon[rows]
            reward = _telescoping(self.problem.reward, cost, ahead, drift, moving.drift)
        failed = self._judged(moving) > self.problem.largest_drift
        self.ended[rows] = failed | (moving.interval >= self._horizon[rows])
        return np.asarray(reward + FAILURE * failed)

    def restart(self) -> None:
        rows = np.flatnonzero(self.ended)
        if len(rows) == 0:
            return
        seeds, self._horizon[rows] = _draw(self._generator, self.problem, len(rows))
        self._motion.put(rows, Motion.start(initial_bodies(seeds)))
        self.ended[rows] = False

    def guess(self, seen: Observation) -> Floats:
        return three_body_guess(self.problem, seen)

    def potential(self) -> Floats:
        """What the evaluations to come will cost, if an interval takes 20.

        Early in an episode an evaluation costs much of the logarithm and saves nearly as much of
        what is still to come; with this guess a learner sees the difference.
        """
        reward = self.problem.reward
        if isinstance(reward, PaperReward):
            return np.zeros(len(self))
        cost = self._motion.evaluations + self._horizon
        ahead = EXPECTED_EVALUATIONS * (self._horizon - self._motion.interval)
        guess = -reward.cost_weight * np.log10((cost + ahead) / cost)
        return np.where(self.ended, 0.0, guess)

    def _judged(self, motion: Motion) -> Floats:
        """What ends an episode: the drift, in the paper's process |dE/E|."""
        return motion.error() if isinstance(self.problem.reward, PaperReward) else motion.drift

    def cost(self) -> Floats:
        return self._motion.evaluations.astype(np.float64)

    def error(self) -> Floats:
        """|dE/E| now."""
        return self._motion.error()

    def places(self) -> Floats:
        """Positions of each body, au: (2, 3, N)."""
        return self._motion.phase[:2].copy()

    def closest(self) -> Floats:
        """Distance of the two closest bodies, au: (N,)."""
        return closest_pair(self._motion.phase)[0]

    def arrays(self) -> Arrays:
        held = {f"motion.{name}": value for name, value in self._motion.arrays().items()}
        own = {"horizon": self._horizon, "ended": self.ended}
        return {name: value.copy() for name, value in (held | own).items()}

    def restore(self, arrays: Arrays, generator: Mapping[str, Any]) -> None:
        for name, value in self._motion.arrays().items():
            value[...] = arrays[f"motion.{name}"]
        self._horizon = arrays["horizon"].copy()
        self.ended = arrays["ended"].astype(np.bool_)
        self._generator.bit_generator.state = dict(generator)


def three_body_guess(problem: ThreeBodyProblem, seen: Observation) -> Floats:
    """What the evaluations until the next decision cost with each mu, T_c staying as it is: (N, n).

    An interval takes one opening and INTERVAL / (mu T_c) steps, against the 20 of the potential.
    Without it the worth of an action is dominated by the rare losses of the large steps, and that a
    small step costs more, a hundredth of a return, is learned last.
    """
    if isinstance(problem.reward, PaperReward) or problem.state == "paper":
        return np.zeros((len(seen), len(problem.actions)))
    columns = seen.astype(np.float64).T
    left = 10.0 ** (2.0 * columns[1])
    horizon = left / np.maximum(1.0 - columns[0], 1e-3)
    cost = (horizon * 10.0 ** columns[4])[:, None]
    scale = 1.0 if problem.control == "fixed" else 10.0 ** columns[5][:, None]
    steps = INTERVAL / (np.array(problem.actions) * scale)
    more = 1.0 + steps * evaluations_per_step(problem.integrator) - EXPECTED_EVALUATIONS
    held = np.minimum(left, problem.hold)
    share = (held * more.T).T / (cost + EXPECTED_EVALUATIONS * left[:, None])
    return np.asarray(-problem.reward.cost_weight * np.log10(1.0 + np.maximum(share, -0.9)))


def _draw(
    generator: np.random.Generator, problem: ThreeBodyProblem, count: int
) -> tuple[list[int], Integers]:
    """Seeds and horizons of new episodes."""
    seeds = generator.integers(FIRST_TRAINING_SEED, LAST_TRAINING_SEED, count).tolist()
    return seeds, generator.choice(np.array(problem.horizons, dtype=np.int64), count)


def _paper_state(motion: Motion) -> Floats:
    """Positions / 10, velocities, -log10 |dE/E|: (N, 13).

    In the order of the paper's code: x, y of each body in turn, then vx, vy of each; and an energy
    error of 1, so a last number of 0, before the first interval.
    """
    places, speeds = motion.phase[:2] / 10.0, motion.phase[2:]
    bodies = [part.swapaxes(0, 1).reshape(6, -1) for part in (places, speeds)]
    level = np.where(motion.interval == 0, 0.0, -logarithm(motion.error()))
    return np.concatenate([*bodies, level[None]]).T


def _paper_reward(reward: PaperReward, motion: Motion, mu: Floats) -> Floats:
    level = logarithm(motion.error())
    level = np.where(level == 0.0, -1e-3, level)
    gain = -reward.error_weight * (level + 10.0) / np.abs(level) ** 3 / motion.interval
    gain += reward.cost_weight / np.abs(np.log10(mu))
    return np.where(motion.interval <= 1, 0.0, gain)


def _telescoping(
    reward: TelescopingReward, cost: Integers, cost_now: Integers, drift: Floats, drift_now: Floats
) -> Floats:
    paid = reward.cost_weight * np.log10(cost_now / cost)
    worse = excess(drift_now, reward.tolerance) - excess(drift, reward.tolerance)
    return np.asarray(-paid - reward.error_weight * worse)
