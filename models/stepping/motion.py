"""Systems on their way: where they are, and what their integration has cost and lost so far."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimctl.models.stepping.bodies import (
    Bodies,
    Floats,
    Integers,
    check_bodies,
    energy,
    initial_bodies,
)

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
