"""Planar three-body systems: `integrate` follows them with one step parameter from start to end.

Units (N-body): G = 1, mass 3 solar masses, length 1 au, time 1 yr / (2 pi sqrt 3), and so velocity
51.6 km/s. Arrays keep the systems on the last axis.

The physics is written once, for one system, in functions that numba compiles where it is installed
(the extra `fast`, some hundred times faster); interpreted they do the same operations, to the bit,
since numba neither reorders sums nor fuses multiplications unless it is asked to. They are compiled
anew in each process (a few seconds), since numba's cache on disk is a pickle. A step of size 0
leaves positions and velocities as they are and only evaluates the forces: so an interval is opened
by the same call that makes a step.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from math import inf, isfinite, sqrt
from typing import Any, TypeAlias, no_type_check

import numpy as np
from numpy.typing import NDArray

from slimctl.models.steps.spec import IntegratorName, StepControl

try:
    import numba
except ImportError:
    numba = None

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
MAX_SUBSTEPS = 1_000_000
"""Steps in one interval after which a system is given up: a few run away at large steps."""


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


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    if numba is None:
        return function
    compiled: Callable[..., Any] = numba.njit(error_model="numpy", fastmath=False, nogil=True)(
        function
    )
    return compiled


@no_type_check
@_compiled
def _smaller(a: float, b: float) -> float:
    """The smaller number; NaN if either is."""
    return a if a < b or a != a else b  # noqa: PLR0124  (only NaN differs from itself)


@no_type_check
@_compiled
def _forces(m: Any, p: Any, rates: Any, pull: Any) -> float:
    """One evaluation: fills `rates` (4, 3), returns the time scale T_c; `pull` is scratch space.

    With r and v the separation and relative velocity of a pair,

        a_i = sum_j m_j r / |r|^3
        j_i = sum_j m_j (v / |r|^3 - 3 (r v) r / |r|^5)
        T_c = min over pairs of |r| / |v| and sqrt(|r| / a_ij),     a_ij = (m_i + m_j) / |r|^2

    Source: Hut, Makino and McMillan's integrator as AMUSE runs it (arXiv 2502.12809, section 3).
    """
    shortest = inf
    for first in range(3):
        second = (first + 1) % 3
        dx, dy = p[0, second] - p[0, first], p[1, second] - p[1, first]
        du, dv = p[2, second] - p[2, first], p[3, second] - p[3, first]
        distance2, speed2 = dx * dx + dy * dy, du * du + dv * dv
        cubed = sqrt(distance2) * distance2
        bend = 3.0 * (dx * du + dy * dv) / distance2
        pull[0, first], pull[1, first] = dx / cubed, dy / cubed
        pull[2, first] = du / cubed - bend * pull[0, first]
        pull[3, first] = dv / cubed - bend * pull[1, first]
        scale = _smaller(distance2 / speed2, cubed / (m[first] + m[second]))
        shortest = _smaller(shortest, scale)
    for i in range(4):
        for k in range(3):
            before = (k + 2) % 3
            rates[i, k] = pull[i, k] * m[(k + 1) % 3] - pull[i, before] * m[before]
    return sqrt(shortest)


@no_type_check
@_compiled
def _hermite(m: Any, p: Any, rates: Any, dt: float, ahead: Any, fresh: Any, pull: Any) -> float:
    """Fourth-order Hermite: predict to the jerk, evaluate there once, correct; returns T_c there.

        v1 = v0 + (a0 + a1) dt / 2 + (j0 - j1) dt^2 / 12
        x1 = x0 + (v0 + v1) dt / 2 + (a0 - a1) dt^2 / 12

    Source: Makino and Aarseth, PASJ 44 (1992); Hut, Makino and McMillan's form.
    """
    half, third, twelfth = dt / 2.0, dt / 3.0, dt * dt / 12.0
    for i in range(2):
        for k in range(3):
            a, j = rates[i, k], rates[i + 2, k]
            ahead[i + 2, k] = p[i + 2, k] + dt * (a + half * j)
            ahead[i, k] = p[i, k] + dt * (p[i + 2, k] + half * (a + third * j))
    time_scale = _forces(m, ahead, fresh, pull)
    for i in range(2):
        for k in range(3):
            v, a, j = p[i + 2, k], rates[i, k], rates[i + 2, k]
            v_new = (v + half * (a + fresh[i, k])) + twelfth * (j - fresh[i + 2, k])
            p[i, k] = (p[i, k] + half * (v + v_new)) + twelfth * (a - fresh[i, k])
            p[i + 2, k] = v_new
            rates[i, k], rates[i + 2, k] = fresh[i, k], fresh[i + 2, k]
    return time_scale


@no_type_check
@_compiled
def _symplectic(m: Any, p: Any, rates: Any, dt: float, shares: Any, pull: Any) -> float:
    """Kick-drift-kick leapfrogs of the given shares of the step, one evaluation each.

    The T_c returned takes the velocities in the middle of the last leapfrog.
    """
    time_scale = 0.0
    for share in shares:
        part = share * dt
        half = part / 2.0
        for i in range(2):
            for k in range(3):
                p[i + 2, k] += half * rates[i, k]
                p[i, k] += part * p[i + 2, k]
        time_scale = _forces(m, p, rates, pull)
        for i in range(2):
            for k in range(3):
                p[i + 2, k] += half * rates[i, k]
    return time_scale


@no_type_check
@_compiled
def _energy(m: Any, p: Any) -> float:
    """Total energy."""
    total = 0.0
    for k in range(3):
        after = (k + 1) % 3
        dx, dy = p[0, after] - p[0, k], p[1, after] - p[1, k]
        kinetic = 0.5 * m[k] * (p[2, k] * p[2, k] + p[3, k] * p[3, k])
        part = kinetic - m[k] * m[after] / sqrt(dx * dx + dy * dy)
        total = part if k == 0 else total + part
    return total


@no_type_check
@_compiled
def _take(masses: Any, phase: Any, row: int, m: Any, p: Any) -> None:
    """Copies one system into `m` (3,) and `p` (4, 3)."""
    for k in range(3):
        m[k] = masses[k, row]
        for i in range(4):
            p[i, k] = phase[i, k, row]


@no_type_check
@_compiled
def _put(p: Any, phase: Any, row: int) -> None:
    """Copies (4, 3) numbers back, one by one: slices take numba longer to compile."""
    for k in range(3):
        for i in range(4):
            phase[i, k, row] = p[i, k]


@no_type_check
@_compiled
def _advance_interval(
    m: Any,
    p: Any,
    t: float,
    end: float,
    mu: float,
    shares: Any,
    fixed: bool,
    most: int,
    scratch: Any,
) -> tuple[float, int, bool]:
    """One interval of one system, in place; returns time, evaluations and whether it ran away."""
    rates, ahead, fresh, pull = scratch[0], scratch[1], scratch[2], scratch[3]
    rates[:] = 0.0
    dt, evaluations, substeps = 0.0, 0, 0
    while True:
        if len(shares) == 0:
            time_scale = _hermite(m, p, rates, dt, ahead, fresh, pull)
        else:
            time_scale = _symplectic(m, p, rates, dt, shares, pull)
        t += dt
        evaluations += len(shares) if dt > 0.0 and len(shares) > 0 else 1
        substeps += 1
        dt = mu if fixed else mu * time_scale
        if substeps > most:
            return t, evaluations, True
        if not t + dt <= end + dt / 2.0:
            return t, evaluations, False


@no_type_check
@_compiled
def _advance_systems(
    rows: Any, mu: Any, intervals: int, length: float, shares: Any, fixed: bool, most: int,
    masses: Any, phase: Any, time: Any, interval: Any, first_energy: Any, last_energy: Any,
    change: Any, drift: Any, evaluations: Any, lost: Any,
) -> None:  # fmt: skip
    """Integrates the systems `rows` over `intervals` intervals of `length`, in place.

    `shares` are those of the leapfrogs in a step, empty for Hermite; with `fixed`, mu is the step
    itself; `most` steps in one interval lose a system. From `masses` on, the arguments are the
    arrays of a `Motion` in its order.
    """
    m, p, scratch = np.empty(3), np.empty((4, 3)), np.empty((4, 4, 3))
    for row in rows:
        _take(masses, phase, row, m, p)
        for _ in range(intervals):
            end = (interval[row] + 1) * length
            t, cost, runaway = _advance_interval(
                m, p, time[row], end, mu[row], shares, fixed, most, scratch
            )
            now = _energy(m, p)
            moved = abs(now - last_energy[row]) / abs(first_energy[row])
            lost[row] = runaway or not isfinite(moved)
            change[row] = inf if lost[row] else moved
            drift[row] += change[row]
            time[row], last_energy[row] = t, now
            evaluations[row] += cost
            interval[row] += 1
            if lost[row]:
                break
        _put(p, phase, row)


@no_type_check
@_compiled
def _fill_forces(masses: Any, phase: Any, rates: Any, time_scale: Any) -> None:
    m, p, own, pull = np.empty(3), np.empty((4, 3)), np.empty((4, 3)), np.empty((4, 3))
    for row in range(masses.shape[1]):
        _take(masses, phase, row, m, p)
        time_scale[row] = _forces(m, p, own, pull)
        _put(own, rates, row)


@no_type_check
@_compiled
def _fill_energy(masses: Any, phase: Any, total: Any) -> None:
    m, p = np.empty(3), np.empty((4, 3))
    for row in range(masses.shape[1]):
        _take(masses, phase, row, m, p)
        total[row] = _energy(m, p)


def forces(masses: Floats, phase: Floats) -> tuple[Floats, Floats]:
    """Accelerations and jerks ax, ay, jx, jy (4, 3, N) and the time scale T_c (N,)."""
    rates, time_scale = np.empty_like(phase), np.empty(masses.shape[1])
    _fill_forces(masses, phase, rates, time_scale)
    return rates, time_scale


def energy(masses: Floats, phase: Floats) -> Floats:
    """Total energy of each system, (N,)."""
    total = np.empty(masses.shape[1])
    _fill_energy(masses, phase, total)
    return total


def evaluations_per_step(integrator: IntegratorName) -> int:
    """Force evaluations of one step."""
    return max(1, len(SUBSTEPS[integrator]))


def closest_pair(phase: Floats) -> tuple[Floats, Floats]:
    """Distance of the two bodies that are closest, au, and their relative speed; both (N,)."""
    apart = phase[:, SECOND] - phase[:, FIRST]
    distance = np.hypot(apart[0], apart[1])
    speed = np.hypot(apart[2], apart[3])
    nearest = distance.argmin(axis=0)[None]
    return (
        np.take_along_axis(distance, nearest, axis=0)[0],
        np.take_along_axis(speed, nearest, axis=0)[0],
    )


@dataclass
class Motion:
    """N systems between two intervals. `advance` changes the arrays in place.

    Arrays (..., N) in N-body units; `change` and `drift` are |E_k - E_(k-1)| / |E_0| of the last
    interval and its sum over all; `lost` systems were given up.
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
    """How an interval is integrated."""

    integrator: IntegratorName = "hermite"
    control: StepControl = "time_scale"
    max_substeps: int = MAX_SUBSTEPS

    def __post_init__(self) -> None:
        """Raises ValueError if the integrator is unknown."""
        if self.integrator not in SUBSTEPS:
            raise ValueError(f"no integrator '{self.integrator}': use one of {list(SUBSTEPS)}")


def advance(
    motion: Motion, mu: float | Floats, intervals: int = 1, method: Method | None = None
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

    Raises:
        ValueError: a step parameter of zero or below, or no intervals.
    """
    method = method or Method()
    sizes = np.broadcast_to(np.asarray(mu, dtype=np.float64), motion.time.shape)
    if intervals < 1 or (sizes.size and not sizes.min() > 0.0):
        raise ValueError(f"mu is {mu}, intervals {intervals}: above 0 and at least 1 are needed")
    shares = np.array(SUBSTEPS[method.integrator])
    options = (intervals, INTERVAL, shares, method.control == "fixed", method.max_substeps)
    with np.errstate(all="ignore"):
        rows = np.flatnonzero(~motion.lost)
        held = motion.arrays().values()
        _advance_systems(rows, np.ascontiguousarray(sizes), *options, *held)


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
