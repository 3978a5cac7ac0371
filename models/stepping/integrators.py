"""The integrators: one step of many systems, each with a step size of its own.

A step of size 0 leaves positions and velocities as they are, to the bit, and only evaluates the
forces there: so an interval is opened by the same call that makes a step, and systems that open an
interval share it with systems in the middle of one.
"""

from dataclasses import dataclass

from slimctl.models.stepping.bodies import Floats
from slimctl.models.stepping.forces import forces
from slimctl.models.stepping.names import IntegratorName

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
