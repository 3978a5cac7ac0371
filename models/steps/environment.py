"""The decision process as a vectorised environment: many episodes side by side.

One round: `observe`, choose, `step`, `restart` the episodes that ended. Three bodies and flows have
the same rounds, so one learner serves both. The random numbers of an environment come from a
generator of its own, whose state is saved with it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]
Observation: TypeAlias = NDArray[np.float32]
Arrays: TypeAlias = dict[str, NDArray[Any]]

Choose: TypeAlias = Callable[[Observation], Integers]
"""A policy: observations (N, d) -> action numbers (N,)."""

Guess: TypeAlias = Callable[[Observation], Floats]
"""What each action is believed to bring before anything is learned: (N, d) -> (N, n)."""

SMALLEST = 1e-13
"""Errors below this count as this: what is smaller is round-off."""


@dataclass(frozen=True)
class Outcome:
    """What a round of decisions brought."""

    reward: Floats
    """(N,); 0 for episodes that had ended before."""
    ended: Flags
    """Episodes that have ended, now or before, (N,)."""


class Environment(ABC):
    """N episodes of a decision process. Abstract.

    Attributes:
        actions: values to choose from, rising.
        observation_size: numbers that a policy sees of an episode.
        ended: which episodes have ended, (N,).
        _generator: draws the episodes of `restart`.
    """

    actions: Floats
    observation_size: int
    ended: Flags
    _generator: np.random.Generator

    def __len__(self) -> int:
        return len(self.ended)

    @abstractmethod
    def observe(self) -> Observation:
        """What a policy sees: (N, observation_size), float32, of order 1."""

    @abstractmethod
    def step(self, choice: Integers) -> Outcome:
        """Takes the action number `choice` (N,) in each episode that has not ended."""

    @abstractmethod
    def restart(self) -> None:
        """Begins new episodes in place of those that have ended, from the private generator."""

    def guess(self, seen: Observation) -> Floats:
        """A guess of what each action brings, from what is seen alone: (N, n).

        A network learns the difference to it, so it need not be right; 0 = nothing is known.
        """
        return np.zeros((len(seen), len(self.actions)))

    def potential(self) -> Floats:
        """A guess of the return still to come, (N,); 0 where an episode has ended.

        The learner adds F = gamma phi(s') - phi(s) to the rewards, which leaves the best policy as
        it is (Ng, Harada and Russell, ICML 1999) and takes out of the worth of a state what is
        known of it.
        """
        return np.zeros(len(self))

    @abstractmethod
    def cost(self) -> Floats:
        """Evaluations of each episode so far, (N,)."""

    @abstractmethod
    def error(self) -> Floats:
        """Error of each episode, as it is judged, (N,); infinite where it was given up."""

    @abstractmethod
    def arrays(self) -> Arrays:
        """The whole state as named arrays."""

    def generator_state(self) -> Mapping[str, Any]:
        """State of the private generator, as JSON has it."""
        return dict(self._generator.bit_generator.state)

    @abstractmethod
    def restore(self, arrays: Arrays, generator: Mapping[str, Any]) -> None:
        """Puts back what `arrays` and `generator_state` gave."""


def logarithm(values: Floats) -> Floats:
    """log10 of errors, those below 1e-13 taken as 1e-13 and infinite ones as 1."""
    kept = np.where(np.isfinite(values), values, 1.0)
    return np.asarray(np.log10(np.clip(kept, SMALLEST, None)))


def excess(error: Floats, tolerance: float) -> Floats:
    """phi(D) = max(0, log10(D / tol)), D above 1 or not finite taken as 1."""
    kept = np.where(np.isfinite(error), np.clip(error, tolerance, 1.0), 1.0)
    return np.asarray(np.log10(kept / tolerance))


@dataclass(frozen=True)
class Episodes:
    """Finished episodes."""

    returns: Floats
    """Sum of the rewards of each, (N,)."""
    cost: Floats
    """Evaluations, (N,)."""
    error: Floats
    """As the problem judges it, (N,)."""
    choices: Integers
    """Action number at each decision, (decisions, N); -1 after the end."""


def play(
    environment: Environment, choose: Choose, watch: Callable[[], None] | None = None
) -> Episodes:
    """Plays every episode of an environment to its end."""
    returns = np.zeros(len(environment))
    choices: list[Integers] = []
    while not environment.ended.all():
        if watch is not None:
            watch()
        choice = np.asarray(choose(environment.observe()), dtype=np.int64)
        choices.append(np.where(environment.ended, -1, choice))
        returns += environment.step(choice).reward
    return Episodes(returns, environment.cost(), environment.error(), np.stack(choices))


def always(action: int) -> Choose:
    """The policy that takes one action for ever."""

    def choose(seen: Observation) -> Integers:
        return np.full(len(seen), action, dtype=np.int64)

    return choose


def holding(choose: Choose, rounds: int) -> Choose:
    """The policy that decides every `rounds` rounds and repeats itself in between."""
    last: list[Integers] = []

    def repeat(seen: Observation) -> Integers:
        if len(last) % rounds == 0:
            last.append(choose(seen))
        else:
            last.append(last[-1])
        return last[-1]

    return repeat
