"""The transitions that a learner remembers: a ring of the newest ones."""

from dataclasses import dataclass

import numpy as np
import torch

from slimctl.models.shapes import Tensor
from slimctl.models.stepping.environment import Arrays, Flags, Floats, Integers, Observation


@dataclass(frozen=True)
class Transitions:
    """A batch of what was seen, done, paid and seen next."""

    seen: Tensor
    """(B, d) float32."""
    choice: Tensor
    """(B,) int64."""
    reward: Tensor
    """(B,) float32."""
    seen_next: Tensor
    """(B, d) float32."""
    discount: Tensor
    """(B,) float32: factor of the worth of what was seen next; 0 where the episode ended."""


class Replay:
    """A ring of `size` transitions; new ones overwrite the oldest."""

    def __init__(self, size: int, observation_size: int) -> None:
        self._held: Arrays = {
            "seen": np.zeros((size, observation_size), dtype=np.float32),
            "choice": np.zeros(size, dtype=np.int64),
            "reward": np.zeros(size, dtype=np.float32),
            "seen_next": np.zeros((size, observation_size), dtype=np.float32),
            "discount": np.zeros(size, dtype=np.float32),
        }
        self._next = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(
        self,
        seen: Observation,
        choice: Integers,
        reward: Floats,
        seen_next: Observation,
        discount: Floats,
    ) -> None:
        """Remembers transitions, in their order."""
        size = len(self._held["choice"])
        places = (self._next + np.arange(len(choice))) % size
        fresh = (seen, choice, reward, seen_next, discount)
        for held, values in zip(self._held.values(), fresh, strict=True):
            held[places] = values
        self._next = (self._next + len(choice)) % size
        self._count = min(size, self._count + len(choice))

    def draw(self, count: int, generator: np.random.Generator) -> Transitions:
        """A random batch, with replacement."""
        places = generator.integers(0, self._count, count)
        drawn = {name: torch.from_numpy(held[places]) for name, held in self._held.items()}
        return Transitions(**drawn)

    def arrays(self) -> Arrays:
        """What is remembered, by name; the same arrays restore it."""
        where = np.array([self._next, self._count], dtype=np.int64)
        return {name: held[: self._count].copy() for name, held in self._held.items()} | {
            "where": where
        }

    def restore(self, arrays: Arrays) -> None:
        """Puts back what `arrays` gave."""
        self._next, self._count = (int(value) for value in arrays["where"])
        for name, held in self._held.items():
            held[: self._count] = arrays[name]


class Lookahead:
    """Sums the rewards of `steps` decisions into one transition.

    The worth of what is seen `steps` decisions later hardly depends on how the first one shows in
    an observation, so that errors of the network there do not favour an action.

    Source: Sutton, Machine Learning 3 (1988); with Q-learning Hessel et al., arXiv 1710.02298.
    """

    def __init__(self, steps: int, episodes: int, observation_size: int, gamma: float) -> None:
        self._steps, self._gamma = steps, gamma
        self._held: Arrays = {
            "seen": np.zeros((steps, episodes, observation_size), dtype=np.float32),
            "choice": np.zeros((steps, episodes), dtype=np.int64),
            "reward": np.zeros((steps, episodes)),
            "age": np.full((steps, episodes), -1, dtype=np.int64),
        }
        self._turn = 0

    def push(
        self, replay: Replay, seen: Observation, choice: Integers, reward: Floats,
        seen_next: Observation, ended: Flags,
    ) -> None:  # fmt: skip
        """Takes a round of decisions and passes on the transitions that are complete.

        A transition is complete after `steps` decisions, or when its episode ends.
        """
        held = self._held
        slot = self._turn % self._steps
        held["seen"][slot], held["choice"][slot] = seen, choice
        held["reward"][slot], held["age"][slot] = 0.0, 0
        open_ones = held["age"] >= 0
        held["reward"] += np.where(open_ones, self._gamma ** held["age"] * reward, 0.0)
        held["age"] += open_ones
        slots, rows = np.nonzero(open_ones & (ended | (held["age"] == self._steps)))
        discount = np.where(ended[rows], 0.0, self._gamma ** held["age"][slots, rows])
        paid, chosen = held["reward"][slots, rows], held["choice"][slots, rows]
        replay.add(held["seen"][slots, rows], chosen, paid, seen_next[rows], discount)
        held["age"][slots, rows] = -1
        self._turn += 1

    def arrays(self) -> Arrays:
        """What is not complete yet; the same arrays restore it."""
        held = {name: value.copy() for name, value in self._held.items()}
        return held | {"turn": np.array(self._turn, dtype=np.int64)}

    def restore(self, arrays: Arrays) -> None:
        """Puts back what `arrays` gave."""
        self._turn = int(arrays["turn"])
        for name, value in self._held.items():
            value[...] = arrays[name]
