"""The flow equation as a decision process: each sample chooses its next step in time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from slimctl.models import counter_random
from slimctl.models.conditions import Marginal, draw_labels
from slimctl.models.counter_random import Stream
from slimctl.models.flows.flow import Flow
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.solvers.base import even_times, solve
from slimctl.models.solvers.fit_grid import end_unit
from slimctl.models.solvers.runge_kutta import rms, trajectory
from slimctl.models.solvers.spec import RK45Spec
from slimctl.models.steps.environment import (
    Arrays,
    Environment,
    Flags,
    Floats,
    Integers,
    Observation,
    Outcome,
    excess,
)
from slimctl.models.steps.flow_walk import (
    EVALUATION_UNIT,
    FlowWalk,
    observation_size,
    step_sizes,
)
from slimctl.models.steps.spec import FlowProblem

_PIECE = 256
"""Samples solved at once."""
EXPECTED_STEP, EVALUATIONS_A_STEP = 0.1, 3
"""What a learner starts from."""


@dataclass(frozen=True)
class ExactPaths:
    """The exact solution at even times; between them it is a cubic."""

    times: tuple[float, ...]
    """Times of the points, from the flow's own start to 1."""
    points: Float[Tensor, "n m c h w"]
    velocities: Float[Tensor, "n m c h w"]

    def at(self, rows: Int[Tensor, " b"], t: Float[Tensor, " b"]) -> Float[Tensor, "b c h w"]:
        """The points of the noises `rows` at times of their own, in the range of `times`."""
        first, step = self.times[0], self.times[1] - self.times[0]
        place = (t - first) / step
        before = place.floor().long().clamp(0, len(self.times) - 2)
        s = (place - before).to(self.points.dtype)[:, None, None, None]
        x, x_next = self.points[rows, before], self.points[rows, before + 1]
        v, v_next = self.velocities[rows, before] * step, self.velocities[rows, before + 1] * step
        rise = x_next - x
        return x + s * (v + s * (3.0 * rise - 2.0 * v - v_next + s * (v + v_next - 2.0 * rise)))


def exact_paths(
    flow: Flow,
    x0: Float[Tensor, "n c h w"],
    label: Int[Tensor, " n"] | None,
    tolerance: float,
    stretches: int,
) -> ExactPaths:
    """`trajectory` of noises of unit variance over so many even stretches of time (>= 1)."""
    times = even_times(flow.t_start, 1.0, stretches)
    points, velocities = trajectory(flow, x0, label, times, tolerance)
    return ExactPaths(times, torch.stack(points, dim=1), torch.stack(velocities, dim=1))


@dataclass(frozen=True)
class Noises:
    """Noises whose ends are known."""

    x0: Float[Tensor, "n c h w"]
    label: Int[Tensor, " n"] | None
    x1: Float[Tensor, "n c h w"]
    """Ends of the exact solution."""
    nfe: float | None = None
    """Evaluations that the exact solution took, mean; None = it was solved in stretches."""
    paths: ExactPaths | None = None
    """Where the exact solution is on the way; None = only the ends are known."""
    unit: float = 1.0
    """What errors are counted in: 1 of pixels, the ends' root mean square of latents."""


@torch.no_grad()
def known_noises(
    flow: Flow,
    first: int,
    count: int,
    tolerance: float,
    seed: int = 0,
    label_counts: Marginal = (),
    stretches: int = 0,
    *,
    relative: bool = False,
) -> Noises:
    """Noises first..first + count - 1 of a seed, and where rk45 takes them.

    Test, validation and training take ranges of their own. With stretches > 0 the exact solution is
    kept at the ends of so many even stretches of time. `relative` errors are in units of the ends.
    """
    device = next(iter(flow.buffers()), next(iter(flow.parameters()), torch.empty(0))).device
    index = torch.arange(first, first + count, device=device)
    shape = (flow.image.channels, flow.image.size, flow.image.size)
    x0 = counter_random.normal(seed, Stream.SAMPLE_NOISE, index, shape)
    label = draw_labels(label_counts, seed, Stream.SAMPLE_LABEL, index)
    labels = (None,) * count if label is None else torch.split(label, _PIECE)
    pieces = list(zip(torch.split(x0, _PIECE), labels, strict=False))
    if stretches:
        found = [exact_paths(flow, *piece, tolerance, stretches) for piece in pieces]
        points = torch.cat([part.points for part in found])
        velocities = torch.cat([part.velocities for part in found])
        paths = ExactPaths(found[0].times, points, velocities)
        ends = points[:, -1]
        return Noises(x0, label, ends, paths=paths, unit=end_unit(ends, relative=relative))
    spec = RK45Spec(tolerance=tolerance, max_evaluations=5000)
    solved = [solve(spec, flow, *piece) for piece in pieces]
    nfe = float(torch.cat([part.nfe for part in solved]).double().mean())
    ends = torch.cat([part.x1 for part in solved])
    return Noises(x0, label, ends, nfe, unit=end_unit(ends, relative=relative))


class FlowEnvironment(Environment):
    """Samples of a flow, each at a time of its own; an episode ends at t = 1."""

    def __init__(
        self,
        problem: FlowProblem,
        flow: Flow,
        noises: Noises,
        chosen: Integers | None = None,
        generator: np.random.Generator | None = None,
    ) -> None:
        """Begins an episode for each chosen noise."""
        self.problem = problem
        self.actions = np.array(problem.actions)
        self.observation_size = observation_size(len(self.actions))
        self._flow, self._noises = flow, noises
        self._generator = generator or np.random.default_rng(0)
        self._chosen = np.arange(len(noises.x0)) if chosen is None else chosen.copy()
        self.ended: Flags = np.zeros(len(self._chosen), dtype=np.bool_)
        self._walk = self._begin(self._chosen)
        self._harm: Floats = np.zeros(len(self._chosen))

    @classmethod
    def training(
        cls, problem: FlowProblem, flow: Flow, noises: Noises, count: int, seed: int
    ) -> "FlowEnvironment":
        """Endless episodes of `count` samples, noises drawn with replacement."""
        generator = np.random.default_rng(seed)
        chosen = generator.integers(0, len(noises.x0), count)
        return cls(problem, flow, noises, chosen, generator)

    @torch.no_grad()
    def _begin(self, chosen: Integers) -> FlowWalk:
        rows = torch.from_numpy(chosen).to(self._noises.x0.device)
        label = None if self._noises.label is None else self._noises.label[rows]
        return FlowWalk(self._flow, self._noises.x0[rows], label)

    def observe(self) -> Observation:
        return self._walk.observe(self.problem)

    @torch.no_grad()
    def step(self, choice: Integers) -> Outcome:
        before, away = self._walk.nfe.clone(), self._deviation()
        self._walk.advance(step_sizes(self.actions, choice, self._walk))
        self._add_harm(away)
        paid = (self._walk.nfe - before).double().cpu().numpy() / EVALUATION_UNIT
        reward = -self.problem.reward.cost_weight * paid
        arrived = self._walk.arrived().cpu().numpy()
        fresh = arrived & ~self.ended
        worse = excess(self.error(), self.problem.reward.tolerance)
        reward[fresh] -= self.problem.reward.error_weight * worse[fresh]
        self.ended = arrived
        return Outcome(reward, arrived.copy())

    def potential(self) -> Floats:
        """What the steps to come will cost, if they are of 0.1, and the harm of those so far.

        So a step is paid at once for the harm that it does, though rewards tell it at the end only.
        The harm of a step is the change that it makes to the distance from the exact solution at
        the same time, as a vector: steps that happen to undo the errors of others are not praised,
        which is luck that no policy can see. Squares of harms add up, as independent errors do.
        """
        reward = self.problem.reward
        left = (1.0 - self._walk.point.t).cpu().numpy()
        guess = -reward.cost_weight * left / EXPECTED_STEP * EVALUATIONS_A_STEP / EVALUATION_UNIT
        harm = np.minimum(np.sqrt(self._harm), 1.0)
        guess = guess - reward.error_weight * np.log10(1.0 + harm / reward.tolerance)
        return np.where(self.ended, 0.0, guess)

    def _deviation(self) -> Tensor | None:
        """How far the samples are from the exact solution; None where that is not known."""
        if self._noises.paths is None:
            return None
        point = self._walk.point
        rows = torch.from_numpy(self._chosen).to(point.x.device)
        return point.x - self._noises.paths.at(rows, point.t)

    def _add_harm(self, before: Tensor | None) -> None:
        """Adds the squared harm of a step, `before` being the deviation before it."""
        after = self._deviation()
        if before is None or after is None:
            return
        change = rms(after - before).double() / self._noises.unit
        squared = change.square().cpu().numpy()
        self._harm += np.where(np.isfinite(squared), np.minimum(squared, 1.0), 1.0)

    def restart(self) -> None:
        rows = np.flatnonzero(self.ended)
        if len(rows) == 0:
            return
        self._chosen[rows] = self._generator.integers(0, len(self._noises.x0), len(rows))
        fresh, places = self._begin(self._chosen[rows]), torch.from_numpy(rows)
        for own, new in zip(_held(self._walk).values(), _held(fresh).values(), strict=True):
            own[places.to(own.device)] = new
        self.ended[rows], self._harm[rows] = False, 0.0

    def cost(self) -> Floats:
        return np.asarray(self._walk.nfe.double().cpu().numpy())

    def error(self) -> Floats:
        """RMS distance to the exact end; it means something once a sample has arrived."""
        rows = torch.from_numpy(self._chosen).to(self._noises.x1.device)
        distance = rms(self._walk.point.x - self._noises.x1[rows]) / self._noises.unit
        return np.asarray(distance.cpu().numpy())

    def arrays(self) -> Arrays:
        held = {name: value.cpu().numpy().copy() for name, value in _held(self._walk).items()}
        own = {"chosen": self._chosen, "ended": self.ended, "harm": self._harm}
        return held | {name: value.copy() for name, value in own.items()}

    def restore(self, arrays: Arrays, generator: Mapping[str, Any]) -> None:
        self._chosen, self._harm = arrays["chosen"].copy(), arrays["harm"].copy()
        self.ended = arrays["ended"].astype(np.bool_)
        for name, own in _held(self._walk).items():
            own.copy_(torch.from_numpy(arrays[name]))
        self._generator.bit_generator.state = dict(generator)


def _held(walk: FlowWalk) -> dict[str, Tensor]:
    """All tensors of a walk, not copied."""
    named = {
        "x": walk.point.x, "t": walk.point.t, "velocity": walk.point.velocity, "nfe": walk.nfe,
        "last_h": walk.last_h, "error": walk.error, "drift": walk.drift, "bend": walk.bend,
    }  # fmt: skip
    label = walk.point.label
    return named | {"label": label} if isinstance(label, Tensor) else named
