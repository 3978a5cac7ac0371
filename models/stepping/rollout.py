"""Plays episodes to their end and keeps what was chosen."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from slimctl.models.stepping.environment import Choose, Environment, Floats, Integers, Observation


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
    """Plays every episode of an environment to its end.

    Args:
        environment: at the beginning of its episodes.
        choose: the policy.
        watch: called before each round of decisions.
    """
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
