"""The loop of `advance` compiled by numba, one system after another.

The same operations in the same order as the array version, so that both agree to the bit: numba
neither reorders sums nor fuses multiplications unless it is asked to. It is compiled anew in each
process (a few seconds), since numba's cache on disk is a pickle.
"""

from math import inf, isfinite, sqrt
from typing import Any, no_type_check

import numba
import numpy as np

compile_function = numba.njit(error_model="numpy", fastmath=False, nogil=True)


@no_type_check
@compile_function
def _smaller(a: float, b: float) -> float:
    """The smaller number; NaN if either is."""
    return a if a < b or a != a else b  # noqa: PLR0124  (only NaN differs from itself)


@no_type_check
@compile_function
def _forces(m: Any, p: Any, rates: Any, pull: Any) -> float:
    """`forces.forces` of one system: fills `rates` (4, 3), returns T_c; `pull` is scratch space."""
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
@compile_function
def _hermite(m: Any, p: Any, rates: Any, dt: float, ahead: Any, fresh: Any, pull: Any) -> float:
    """`integrators.hermite` of one system: changes `p` and `rates`, returns T_c."""
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
@compile_function
def _symplectic(m: Any, p: Any, rates: Any, dt: float, shares: Any, pull: Any) -> float:
    """`integrators.symplectic` of one system: changes `p` and `rates`, returns T_c."""
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
@compile_function
def _energy(m: Any, p: Any) -> float:
    """`bodies.energy` of one system."""
    total = 0.0
    for k in range(3):
        after = (k + 1) % 3
        dx, dy = p[0, after] - p[0, k], p[1, after] - p[1, k]
        kinetic = 0.5 * m[k] * (p[2, k] * p[2, k] + p[3, k] * p[3, k])
        part = kinetic - m[k] * m[after] / sqrt(dx * dx + dy * dy)
        total = part if k == 0 else total + part
    return total


@no_type_check
@compile_function
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
@compile_function
def advance_systems(
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
        for k in range(3):
            m[k] = masses[k, row]
            for i in range(4):
                p[i, k] = phase[i, k, row]
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
        for k in range(3):
            for i in range(4):
                phase[i, k, row] = p[i, k]
