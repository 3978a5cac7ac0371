"""Small problems with known answers."""

import numpy as np
import pytest

from slimctl.models.steps.environment import Environment, Outcome

STATES = 6
GAMMA = 0.9


class Corridor(Environment):
    """Six places in a row, left or right, -1 a step, +5 at the right end; a step may slip.

    What is seen is the place as a one-hot vector, so a network can hold any table.
    """

    def __init__(self, count: int, seed: int, slip: float = 0.0) -> None:
        self.actions = np.array([1.0, 2.0])
        self.observation_size = STATES
        self.slip = slip
        self.ended = np.zeros(count, dtype=np.bool_)
        self._generator = np.random.default_rng(seed)
        self._place = self._generator.integers(0, STATES - 1, count)

    def observe(self):
        return np.eye(STATES, dtype=np.float32)[self._place]

    def step(self, choice):
        slips = self._generator.random(len(self)) < self.slip
        move = np.where(slips, 1 - choice, choice) * 2 - 1
        place = np.clip(self._place + move, 0, STATES - 1)
        self._place = np.where(self.ended, self._place, place)
        self.ended = self._place == STATES - 1
        return Outcome(np.where(self.ended, 5.0, -1.0), self.ended.copy())

    def restart(self):
        fresh = self._generator.integers(0, STATES - 1, int(self.ended.sum()))
        self._place[self.ended] = fresh
        self.ended = np.zeros(len(self), dtype=np.bool_)

    def cost(self):
        return np.zeros(len(self))

    def error(self):
        return np.zeros(len(self))

    def arrays(self):
        return {"place": self._place.copy(), "ended": self.ended.copy()}

    def generator_state(self):
        return dict(self._generator.bit_generator.state)

    def restore(self, arrays, generator):
        self._place, self.ended = arrays["place"].copy(), arrays["ended"].astype(np.bool_)
        self._generator.bit_generator.state = dict(generator)


def corridor_table(slip: float = 0.0) -> np.ndarray:
    """Q of the corridor by value iteration, (places but the last, 2)."""
    q = np.zeros((STATES, 2))
    for _ in range(500):
        fresh = np.zeros_like(q)
        for place in range(STATES - 1):
            for action in range(2):
                for chance, move in ((1 - slip, action), (slip, 1 - action)):
                    ahead = int(np.clip(place + 2 * move - 1, 0, STATES - 1))
                    end = ahead == STATES - 1
                    paid = 5.0 if end else -1.0 + GAMMA * q[ahead].max()
                    fresh[place, action] += chance * paid
        q = fresh
    return q[:-1]


@pytest.fixture(name="corridor")
def _corridor():
    """`corridor(count, seed, slip)` makes the environment."""
    return Corridor


@pytest.fixture(name="corridor_table")
def _corridor_table():
    """`corridor_table(slip)` is the table of known worths."""
    return corridor_table
