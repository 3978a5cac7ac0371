"""Planar three-body systems: their units, their first positions, their energy.

Units (N-body): G = 1, mass 3 solar masses, length 1 au, time 1 yr / (2 pi sqrt 3), and so velocity
51.6 km/s. Arrays keep the systems on the last axis, so that every operation runs over neighbouring
numbers.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

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
