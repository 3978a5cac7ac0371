"""Integrates systems over intervals of 0.1 yr, each system with steps of its own.

A system does not wait for the others at the end of an interval: every turn of the loop makes the
next evaluation of each, whether that is a step or the opening of an interval. Systems that have
arrived leave the arrays. Where numba is installed (the extra `fast`) the same operations run in a
compiled loop, system by system; the results agree to the bit.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctl.models.stepping.bodies import INTERVAL, Floats, Integers, energy
from slimctl.models.stepping.integrators import SUBSTEPS, Point, advance_step, evaluations_per_step
from slimctl.models.stepping.motion import MAX_SUBSTEPS, Motion
from slimctl.models.stepping.names import IntegratorName, StepControl


@dataclass(frozen=True)
class Method:
    """How an interval is integrated.

    Args:
        integrator: the method of one step.
        control: what a step parameter means.
        max_substeps: steps in one interval after which a system is given up.
    """

    integrator: IntegratorName = "hermite"
    control: StepControl = "time_scale"
    max_substeps: int = MAX_SUBSTEPS

    def __post_init__(self) -> None:
        """Raises ValueError if the integrator is unknown."""
        if self.integrator not in SUBSTEPS:
            raise ValueError(f"no integrator '{self.integrator}': use one of {list(SUBSTEPS)}")


def advance(
    motion: Motion,
    mu: float | Floats,
    intervals: int = 1,
    method: Method | None = None,
    compiled: bool | None = None,
) -> None:
    """Integrates every system over the next `intervals` intervals, in place.

    Each interval opens with a fresh evaluation of the forces, and goes on while
    t + dt <= t_end + dt / 2; the k-th ends at k x 0.1 yr, and the time carries over. A system that
    takes more than `max_substeps` in an interval, or whose numbers are no longer finite, is lost:
    it stays where it is, its drift is infinite, and it costs nothing more.

    Args:
        motion: the systems.
        mu: step parameter of all, or of each (N,), > 0.
        intervals: at least 1.
        method: how; None is Hermite with dt = mu T_c.
        compiled: whether to use the compiled loop; None = where numba is installed.

    Raises:
        ValueError: a step parameter of zero or below, or no intervals.
    """
    method = method or Method()
    sizes = np.broadcast_to(np.asarray(mu, dtype=np.float64), motion.time.shape)
    if intervals < 1 or (sizes.size and not sizes.min() > 0.0):
        raise ValueError(f"mu is {mu}, intervals {intervals}: above 0 and at least 1 are needed")
    rows = np.flatnonzero(~motion.lost)
    with np.errstate(all="ignore"):
        if can_compile() if compiled is None else compiled:
            _advance_compiled(motion, rows, sizes, intervals, method)
        else:
            _advance_arrays(motion, rows, sizes, intervals, method)


@cache
def can_compile() -> bool:
    """Whether numba is installed."""
    return find_spec("numba") is not None


def _advance_compiled(
    motion: Motion, rows: Integers, mu: Floats, intervals: int, method: Method
) -> None:
    from slimctl.models.stepping.compiled import advance_systems  # noqa: PLC0415  (an extra)

    shares = np.array(SUBSTEPS[method.integrator])
    fixed = method.control == "fixed"
    held = list(motion.arrays().values())
    options = (intervals, INTERVAL, shares, fixed, method.max_substeps)
    advance_systems(rows, np.ascontiguousarray(mu), *options, *held)


@dataclass
class _Moving:
    """The systems still on their way; `rows` are their places in the whole."""

    rows: Integers
    motion: Motion
    point: Point
    mu: Floats
    dt: Floats
    """Size of the next step; 0 opens an interval."""
    substeps: Integers
    """Evaluations in the present interval."""
    target: Integers
    """Interval at which a system has arrived."""

    def keep(self, chosen: NDArray[Any]) -> "_Moving":
        point = self.point
        return _Moving(
            self.rows[chosen],
            self.motion.rows(chosen),
            Point(point.phase[:, :, chosen], point.rates[:, :, chosen], point.time_scale[chosen]),
            self.mu[chosen],
            self.dt[chosen],
            self.substeps[chosen],
            self.target[chosen],
        )


def _advance_arrays(
    motion: Motion, rows: Integers, mu: Floats, intervals: int, method: Method
) -> None:
    start = motion.rows(rows)
    point = Point(start.phase, np.zeros_like(start.phase), np.zeros_like(start.time))
    nothing = np.zeros(len(rows), dtype=np.int64)
    moving = _Moving(
        rows, start, point, mu[rows], np.zeros(len(rows)), nothing, start.interval + intervals
    )
    while len(moving.rows):
        arrived = _turn(moving, method)
        if arrived is not None:
            done = np.flatnonzero(arrived)
            motion.put(moving.rows[done], moving.motion.rows(done))
            moving = moving.keep(~arrived)


def _turn(moving: _Moving, method: Method) -> NDArray[np.bool_] | None:
    """One evaluation of every system; returns which have arrived or were lost, None if none."""
    motion, dt = moving.motion, moving.dt
    moving.point = point = advance_step(method.integrator, motion.masses, moving.point, dt)
    motion.time += dt
    cost = evaluations_per_step(method.integrator)
    motion.evaluations += 1 if cost == 1 else np.where(dt > 0.0, cost, 1)
    moving.substeps += 1
    size = moving.mu if method.control == "fixed" else moving.mu * point.time_scale
    end = (motion.interval + 1) * INTERVAL
    goes_on = motion.time + size <= end + size / 2.0
    moving.dt = size * goes_on
    runaway = moving.substeps > method.max_substeps
    if goes_on.all() and not runaway.any():
        return None
    return _close(moving, ~goes_on, runaway)


def _close(
    moving: _Moving, closing: NDArray[np.bool_], runaway: NDArray[np.bool_]
) -> NDArray[np.bool_] | None:
    """Ends the interval of the systems that have come to it."""
    motion = moving.motion
    rows = np.flatnonzero(closing | runaway)
    phase = moving.point.phase[:, :, rows]
    now = energy(motion.masses[:, rows], phase)
    change = np.abs(now - motion.last_energy[rows]) / np.abs(motion.first_energy[rows])
    lost = runaway[rows] | ~np.isfinite(change)
    change[lost] = np.inf
    motion.phase[:, :, rows] = phase
    motion.change[rows] = change
    motion.drift[rows] += change
    motion.last_energy[rows] = now
    motion.interval[rows] += 1
    motion.lost[rows] = lost
    moving.substeps[rows] = 0
    moving.dt[rows] = 0.0
    arrived = motion.lost | (motion.interval == moving.target)
    return arrived if arrived.any() else None
