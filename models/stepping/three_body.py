"""`integrate`: the paper's three-body systems with one step parameter from beginning to end."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from slimctl.models.stepping.spec import IntegratorName, StepControl

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

YEAR = 2.0 * math.pi * math.sqrt(3.0)
"""One year in units of time."""
INTERVAL = 0.1 * YEAR
"""Time from one decision to the next: 0.1 yr."""
_SUN_KM3_PER_S2 = 1.32712440018e11
_AU_KM = 149_597_870.7
KM_PER_S = math.sqrt(_AU_KM / (3.0 * _SUN_KM3_PER_S2))
"""1 km/s in units of velocity, sqrt(G 3 MSun / au)."""
FIRST, SECOND = (0, 1, 2), (1, 2, 0)
"""Pairs of bodies: pair p is FIRST[p] and SECOND[p]."""


@dataclass(frozen=True)
class Bodies:
    """N systems of three bodies in the plane.

    Args:
        masses: (3, N), in units of 3 solar masses.
        phase: x, y, vx, vy of each body: (4, 3, N).
    """

    masses: Floats
    phase: Floats

    def __len__(self) -> int:
        return int(self.masses.shape[1])

    def keep(self, chosen: NDArray[Any]) -> "Bodies":
        """The systems of a mask or of numbers."""
        return Bodies(self.masses[:, chosen], self.phase[:, :, chosen])


def check_bodies(bodies: Bodies) -> Bodies:
    """Passes bodies on that can be integrated.

    Raises:
        ValueError: shapes that do not fit, a mass of zero or below, bodies at one place, or
            numbers that are not finite.
    """
    masses, phase = bodies.masses, bodies.phase
    if masses.ndim != 2 or masses.shape[0] != 3 or phase.shape != (4, *masses.shape):
        raise ValueError(
            f"masses have shape {masses.shape}, phases {phase.shape}: (3, N) and (4, 3, N) are "
            "needed"
        )
    if not (np.isfinite(masses).all() and np.isfinite(phase).all()):
        raise ValueError("masses, positions and velocities must be finite")
    if masses.size and masses.min() <= 0.0:
        number = int(np.argmin(masses.min(axis=0)))
        raise ValueError(
            f"system {number} has a mass of {masses.min():g}: every mass must be above zero"
        )
    squares = np.square(phase[:2, SECOND] - phase[:2, FIRST]).sum(axis=0)
    if squares.size and squares.min() == 0.0:
        pair, number = np.argwhere(squares == 0.0)[0]
        raise ValueError(
            f"bodies {FIRST[pair]} and {SECOND[pair]} of system {number} are at one place, where "
            "their attraction is infinite: move one"
        )
    return bodies


def initial_bodies(seeds: Iterable[int]) -> Bodies:
    """Three equal masses at the positions that each seed draws, in the centre-of-mass frame.

    Body 0 is at the origin with velocity (0, 10) km/s; body 1 at x in [5, 20], y in [0, 10] au with
    (-10, 0) km/s; body 2 at x in [-10, 0], y in [5, 20] au, at rest.

    Args:
        seeds: one per system, each in [0, 2^32).

    Raises:
        ValueError: a seed outside that range.

    Source: arXiv 2502.12809, section 3; the four uniform numbers in the order x1, y1, x2, y2 are
    those of its code, numpy's legacy generator.
    """
    places = np.array([_places(seed) for seed in seeds]).reshape(-1, 4).T
    phase = np.zeros((4, 3, places.shape[1]))
    phase[0, 1], phase[1, 1] = 5.0 + 15.0 * places[0], 10.0 * places[1]
    phase[0, 2], phase[1, 2] = -10.0 * places[2], 5.0 + 15.0 * places[3]
    phase[3, 0], phase[2, 1] = 10.0 * KM_PER_S, -10.0 * KM_PER_S
    masses = np.full((3, places.shape[1]), 1.0 / 3.0)
    return Bodies(masses, phase - phase.mean(axis=1, keepdims=True))


def _places(seed: int) -> Floats:
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed {seed}: numpy's legacy generator takes 0 to 2^32 - 1")
    return np.random.RandomState(seed).uniform(size=4)


def separations(phase: Floats) -> Floats:
    """Second minus first body of each pair: x, y, vx, vy, shape (4, 3 pairs, N)."""
    apart = np.empty_like(phase)
    np.subtract(phase[:, 1:], phase[:, :2], out=apart[:, :2])
    np.subtract(phase[:, 0], phase[:, 2], out=apart[:, 2])
    return apart


def energy(masses: Floats, phase: Floats) -> Floats:
    """Total energy of each system, (N,), summed in a fixed order."""
    squares = phase[2:] * phase[2:]
    kinetic = 0.5 * masses * (squares[0] + squares[1])
    apart = separations(phase)
    distance = np.sqrt(apart[0] * apart[0] + apart[1] * apart[1])
    bound = np.empty_like(masses)
    for pair in range(3):
        bound[pair] = masses[FIRST[pair]] * masses[SECOND[pair]] / distance[pair]
    total = kinetic - bound
    return np.asarray((total[0] + total[1]) + total[2])


def forces(masses: Floats, phase: Floats) -> tuple[Floats, Floats]:
    """One evaluation: acceleration and jerk of each body, and the time scale T_c of each system.

    With r and v the separation and relative velocity of a pair,

        a_i = sum_j m_j r / |r|^3
        j_i = sum_j m_j (v / |r|^3 - 3 (r v) r / |r|^5)
        T_c = min over pairs of |r| / |v| and sqrt(|r| / a_ij),     a_ij = (m_i + m_j) / |r|^2

    The compiled loop does the same operations in the same order, so that both agree to the bit.

    Args:
        masses: (3, N).
        phase: x, y, vx, vy: (4, 3, N).

    Returns:
        ax, ay, jx, jy of shape (4, 3, N), and T_c of shape (N,).

    Source: Hut, Makino and McMillan's integrator as AMUSE runs it (arXiv 2502.12809, section 3).
    """
    apart = separations(phase)
    squares = apart * apart
    distance2 = squares[0] + squares[1]
    speed2 = squares[2] + squares[3]
    products = apart[:2] * apart[2:]
    cubed = np.sqrt(distance2) * distance2
    pull = apart / cubed
    bend = 3.0 * (products[0] + products[1]) / distance2
    pull[2:] -= bend * pull[:2]
    weighted = pull * masses
    result = np.empty_like(pull)
    np.multiply(pull[:, :2], masses[1:], out=result[:, :2])
    np.multiply(pull[:, 2], masses[0], out=result[:, 2])
    result[:, 1:] -= weighted[:, :2]
    result[:, 0] -= weighted[:, 2]
    together = np.empty_like(masses)
    np.add(masses[:2], masses[1:], out=together[:2])
    np.add(masses[2], masses[0], out=together[2])
    scale2 = np.minimum(distance2 / speed2, cubed / together)
    shortest = np.minimum(np.minimum(scale2[0], scale2[1]), scale2[2])
    return result, np.sqrt(shortest)


def closest_pair(phase: Floats) -> tuple[Floats, Floats]:
    """Distance of the two bodies that are closest, au, and their relative speed; both (N,)."""
    apart = separations(phase)
    distance = np.hypot(apart[0], apart[1])
    speed = np.hypot(apart[2], apart[3])
    nearest = distance.argmin(axis=0)[None]
    return (
        np.take_along_axis(distance, nearest, axis=0)[0],
        np.take_along_axis(speed, nearest, axis=0)[0],
    )


_CUBE_ROOT = 2.0 ** (1.0 / 3.0)
_OUTER = 1.0 / (2.0 - _CUBE_ROOT)
_INNER = -_CUBE_ROOT / (2.0 - _CUBE_ROOT)
SUBSTEPS: dict[IntegratorName, tuple[float, ...]] = {
    "hermite": (),
    "leapfrog": (1.0,),
    "yoshida4": (_OUTER, _INNER, _OUTER),
}
"""Shares of a step of each leapfrog that a symplectic integrator is made of.

Source: Yoshida, Phys. Lett. A 150 (1990), equation 2.11."""


@dataclass(frozen=True)
class Point:
    """Where systems are, and what the last evaluation of the forces told."""

    phase: Floats
    """x, y, vx, vy: (4, 3, N)."""
    rates: Floats
    """Accelerations and jerks (4, 3, N)."""
    time_scale: Floats
    """T_c (N,)."""


def evaluations_per_step(integrator: IntegratorName) -> int:
    """Force evaluations of one step."""
    return max(1, len(SUBSTEPS[integrator]))


def advance_step(integrator: IntegratorName, masses: Floats, point: Point, dt: Floats) -> Point:
    """One step of every system.

    Args:
        integrator: the method.
        masses: (3, N).
        point: where the systems are.
        dt: step sizes (N,), >= 0.
    """
    if integrator == "hermite":
        return hermite(masses, point, dt)
    return symplectic(masses, point, dt, SUBSTEPS[integrator])


def hermite(masses: Floats, point: Point, dt: Floats) -> Point:
    """Fourth-order Hermite: predict to the jerk, evaluate there once, correct.

        v1 = v0 + (a0 + a1) dt / 2 + (j0 - j1) dt^2 / 12
        x1 = x0 + (v0 + v1) dt / 2 + (a0 - a1) dt^2 / 12

    The next time scale is that of the predicted point.

    Source: Makino and Aarseth, PASJ 44 (1992); Hut, Makino and McMillan's form.
    """
    x, v = point.phase[:2], point.phase[2:]
    a, j = point.rates[:2], point.rates[2:]
    half, third, twelfth = dt / 2.0, dt / 3.0, dt * dt / 12.0
    predicted = point.phase.copy()
    predicted[2:] += dt * (a + half * j)
    predicted[:2] += dt * (v + half * (a + third * j))
    rates, time_scale = forces(masses, predicted)
    phase = predicted
    phase[2:] = v + half * (a + rates[:2]) + twelfth * (j - rates[2:])
    phase[:2] = x + half * (v + phase[2:]) + twelfth * (a - rates[:2])
    return Point(phase, rates, time_scale)


def symplectic(masses: Floats, point: Point, dt: Floats, shares: tuple[float, ...]) -> Point:
    """Kick-drift-kick leapfrogs of the given shares of the step, one evaluation each.

    The next time scale takes the velocities in the middle of the last leapfrog.
    """
    phase, rates, time_scale = point.phase.copy(), point.rates, point.time_scale
    for share in shares:
        part = share * dt
        half = part / 2.0
        phase[2:] += half * rates[:2]
        phase[:2] += part * phase[2:]
        rates, time_scale = forces(masses, phase)
        phase[2:] += half * rates[:2]
    return Point(phase, rates, time_scale)


MAX_SUBSTEPS = 1_000_000
"""Steps in one interval after which a system is given up: a few run away at large steps."""


@dataclass
class Motion:
    """N systems between two intervals. `advance` changes the arrays in place.

    Args:
        masses: (3, N).
        phase: x, y, vx, vy: (4, 3, N).
        time: units of time since the start, (N,).
        interval: intervals done, (N,).
        first_energy: total energy at the start, (N,).
        last_energy: total energy after the last interval, (N,).
        change: |E_k - E_(k-1)| / |E_0| of the last interval, (N,).
        drift: sum of these changes over all intervals, (N,).
        evaluations: force evaluations so far, (N,).
        lost: systems that were given up, (N,).
    """

    masses: Floats
    phase: Floats
    time: Floats
    interval: Integers
    first_energy: Floats
    last_energy: Floats
    change: Floats
    drift: Floats
    evaluations: Integers
    lost: NDArray[np.bool_]

    @classmethod
    def start(cls, bodies: Bodies) -> "Motion":
        """Systems at their first positions.

        Raises:
            ValueError: systems that cannot be integrated.
        """
        check_bodies(bodies)
        count = len(bodies)
        first = energy(bodies.masses, bodies.phase)
        return cls(
            masses=bodies.masses.copy(),
            phase=bodies.phase.copy(),
            time=np.zeros(count),
            interval=np.zeros(count, dtype=np.int64),
            first_energy=first,
            last_energy=first.copy(),
            change=np.zeros(count),
            drift=np.zeros(count),
            evaluations=np.zeros(count, dtype=np.int64),
            lost=np.zeros(count, dtype=np.bool_),
        )

    @classmethod
    def of_seeds(cls, seeds: Iterable[int]) -> "Motion":
        """The paper's systems of these seeds."""
        return cls.start(initial_bodies(seeds))

    def __len__(self) -> int:
        return int(self.masses.shape[1])

    def rows(self, chosen: NDArray[Any]) -> "Motion":
        """A copy of the systems of a mask or of numbers."""
        held = {each.name: getattr(self, each.name)[..., chosen] for each in fields(self)}
        return Motion(**held)

    def put(self, chosen: NDArray[Any], other: "Motion") -> None:
        """Writes other systems over those of a mask or of numbers."""
        for each in fields(self):
            getattr(self, each.name)[..., chosen] = getattr(other, each.name)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, not copied."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def error(self) -> Floats:
        """|E - E_0| / |E_0| now, (N,); infinite where it is not a number."""
        with np.errstate(invalid="ignore"):
            error = np.abs(self.last_energy - self.first_energy) / np.abs(self.first_energy)
        return np.where(np.isfinite(error), error, np.inf)


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


def integrate(
    seeds: Iterable[int] | None = None,
    mu: float | Floats = 1e-2,
    intervals: int = 300,
    integrator: IntegratorName = "hermite",
    control: StepControl = "time_scale",
    max_substeps: int = MAX_SUBSTEPS,
    bodies: Bodies | None = None,
) -> tuple[Floats, Integers]:
    """Integrates three-body systems over `intervals` x 0.1 yr.

    Args:
        seeds: of the systems; or give `bodies`.
        mu: step parameter of all systems, or of each (N,).
        intervals: number of intervals of 0.1 yr.
        integrator: `hermite`, `leapfrog` or `yoshida4`.
        control: `time_scale` for steps of mu T_c, `fixed` for steps of mu units of time.
        max_substeps: steps in one interval after which a system is given up; its error is infinite.
        bodies: systems of one's own instead of the paper's.

    Returns:
        |dE/E| at the end, and force evaluations: steps plus one per interval; both (N,).

    Raises:
        ValueError: not exactly one of `seeds` and `bodies`, or numbers that cannot be integrated.

    Source: arXiv 2502.12809, section 3, with Hut, Makino and McMillan's Hermite integrator.
    """
    if (seeds is None) == (bodies is None):
        raise ValueError("give either seeds or bodies")
    motion = Motion.start(bodies) if bodies is not None else Motion.of_seeds(seeds or ())
    advance(motion, mu, intervals, Method(integrator, control, max_substeps))
    return motion.error(), motion.evaluations
