"""Double deep Q-learning on a vectorised environment.

The learner's state is tensors and plain data, nothing else, and a learner that is restored goes on
bit for bit as if it had never stopped. The policy is that of an average of the weights over the
last tenth of the steps: single networks mix actions whose worths differ by less than their noise.

Source: van Hasselt et al., arXiv 1509.06461. Huber loss, AdamW with amsgrad and a target average
are those of arXiv 2502.12809; their settings, the falling learning rate and all else are not.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from slimctl.models.ema import PowerEMA
from slimctl.models.shapes import Tensor
from slimctl.models.steps.environment import (
    Arrays,
    Environment,
    Flags,
    Floats,
    Integers,
    Observation,
)
from slimctl.models.steps.q_network import GreedyPolicy, action_basis, initial_network
from slimctl.models.steps.spec import DoubleDqnSpec


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


Evaluator = Callable[[GreedyPolicy], float]
"""Mean return of a policy on episodes that training never sees."""
GRADIENT_CLIP = 10.0
EPISODES_REMEMBERED = 256


@dataclass
class Counters:
    """How far a training is; all of it goes into a checkpoint as JSON."""

    decisions: int = 0
    updates: int = 0
    best_return: float | None = None
    """Highest mean return on the validation episodes."""
    best_at: int = 0
    """Decisions after which it was reached."""
    recent: list[float] = field(default_factory=list)
    """Returns of the last finished training episodes."""
    running: list[float] = field(default_factory=list)
    """Return so far of each unfinished episode."""
    curve: list[tuple[int, float, float]] = field(default_factory=list)
    """(decisions, mean return of recent training episodes, validation return)."""


@dataclass(frozen=True)
class LearnerState:
    """A whole training: tensors for safetensors, the rest for JSON."""

    tensors: Mapping[str, Tensor]
    notes: Mapping[str, Any]


class DoubleDqn:
    """Learns the worth of actions from many episodes side by side."""

    def __init__(
        self,
        spec: DoubleDqnSpec,
        environment: Environment,
        seed: int,
        evaluator: Evaluator | None = None,
    ) -> None:
        self.spec = spec
        self.environment = environment
        self.counters = Counters(running=[0.0] * len(environment))
        self._evaluator = evaluator
        self._generator = np.random.default_rng(seed)
        basis = action_basis(environment.actions, spec.action_terms)
        sizes = (environment.observation_size, spec.hidden, basis)
        self.network = initial_network(*sizes, seed, spec.advantage_scale)
        self._target = initial_network(*sizes, seed, spec.advantage_scale)
        self._average = PowerEMA(self.network)
        self._best = {name: value.clone() for name, value in self._average.average.items()}
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=spec.learning_rate, amsgrad=True, foreach=True
        )
        self._replay = Replay(spec.replay, environment.observation_size)
        self._lookahead = Lookahead(
            spec.lookahead, len(environment), environment.observation_size, spec.gamma
        )

    @property
    def done(self) -> bool:
        """Whether all decisions have been made."""
        return self.counters.decisions >= self.spec.decisions

    def policy(self) -> GreedyPolicy:
        """The policy of the best network so far."""
        return GreedyPolicy(self.best_weights(), self.environment.guess)

    def best_weights(self) -> dict[str, Tensor]:
        """Weights of the best network so far; of the newest where there is no evaluator."""
        return dict(self._average.average if self._evaluator is None else self._best)

    def round(self) -> float | None:
        """One round of decisions and the updates after it; returns the mean loss, if any."""
        counters, spec = self.counters, self.spec
        before = counters.decisions
        seen = self.environment.observe()
        choice = self._explore(seen)
        potential = self.environment.potential()
        outcome = self.environment.step(choice)
        paid = outcome.reward + spec.gamma * self.environment.potential() - potential
        seen_next = self.environment.observe()
        self._lookahead.push(self._replay, seen, choice, paid, seen_next, outcome.ended)
        for number, reward in enumerate(outcome.reward.tolist()):
            counters.running[number] += reward
            if outcome.ended[number]:
                counters.recent = [*counters.recent, counters.running[number]]
                counters.recent = counters.recent[-EPISODES_REMEMBERED:]
                counters.running[number] = 0.0
        self.environment.restart()
        counters.decisions += len(choice)
        loss = None
        if counters.decisions > spec.warmup:
            loss = sum(self._update() for _ in range(spec.updates)) / spec.updates
        if before // spec.validate_every < counters.decisions // spec.validate_every or self.done:
            self._validate()
        return loss

    def _explore(self, seen: Observation) -> Integers:
        """The best action, or with probability epsilon one beside it or any."""
        best = GreedyPolicy(self._target.state_dict(), self.environment.guess)(seen)
        count = len(self.environment.actions)
        anything = self._generator.integers(0, count, len(seen))
        beside = np.clip(best + self._generator.choice((-1, 1), len(seen)), 0, count - 1)
        near = self._generator.random(len(seen)) < self.spec.near
        dice = self._generator.random(len(seen))
        return np.where(dice < self.epsilon(), np.where(near, beside, anything), best)

    def epsilon(self) -> Floats:
        """Share of random decisions now, of each episode that runs beside the others.

        One bad step spoils the energy of a whole episode, so episodes that hardly explore are
        needed to see what a good policy sees: episode i of N takes epsilon^(1 + spread i / (N - 1))
        (Horgan et al., arXiv 1803.00933, section 4.1).
        """
        first, last = self.spec.epsilon
        share = self.counters.decisions / (self.spec.exploration * self.spec.decisions)
        power = 1.0 + self.spec.epsilon_spread * np.linspace(0.0, 1.0, len(self.environment))
        return np.asarray((first + (last - first) * min(1.0, share)) ** power)

    def learning_rate(self) -> float:
        """A half cosine from the spec's to a hundredth of it."""
        share = min(1.0, self.counters.decisions / self.spec.decisions)
        return self.spec.learning_rate * (0.01 + 0.495 * (1.0 + math.cos(math.pi * share)))

    def _update(self) -> float:
        """One step towards R + gamma^n Q_target(s', argmax_a Q(s', a)); returns the loss."""
        batch = self._replay.draw(self.spec.batch_size, self._generator)
        with torch.no_grad():
            guess = self._guess(batch.seen_next)
            best = (self.network(batch.seen_next) + guess).argmax(dim=1, keepdim=True)
            ahead = (self._target(batch.seen_next) + guess).gather(1, best).squeeze(1)
            goal = batch.reward + batch.discount * ahead
            guess = self._guess(batch.seen)
        worth = (self.network(batch.seen) + guess).gather(1, batch.choice[:, None]).squeeze(1)
        loss = functional.huber_loss(worth, goal, delta=self.spec.huber_delta)
        self._optimizer.param_groups[0]["lr"] = self.learning_rate()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_CLIP)
        self._optimizer.step()
        with torch.no_grad():
            pairs = zip(self._target.parameters(), self.network.parameters(), strict=True)
            for target, weight in pairs:
                target.lerp_(weight, self.spec.target_rate)
        self._average.update()
        self.counters.updates += 1
        return float(loss.detach())

    def _guess(self, seen: Tensor) -> Tensor:
        return torch.from_numpy(self.environment.guess(seen.numpy())).float()

    def _validate(self) -> None:
        """Keeps the network if it is the best on the validation episodes so far."""
        if self._evaluator is None:
            return
        found = self._evaluator(GreedyPolicy(self._average.average, self.environment.guess))
        counters = self.counters
        recent = sum(counters.recent) / len(counters.recent) if counters.recent else math.nan
        counters.curve.append((counters.decisions, recent, found))
        if counters.best_return is None or found > counters.best_return:
            counters.best_return, counters.best_at = found, counters.decisions
            state = self._average.average
            self._best = {name: value.clone() for name, value in state.items()}

    def state(self) -> LearnerState:
        """Everything, to be put back by `restore`."""
        tensors: dict[str, Tensor] = {}
        for prefix, held in (
            ("network", self.network.state_dict()),
            ("target", self._target.state_dict()),
            ("average", self._average.average),
            ("best", self._best),
        ):
            tensors |= {f"{prefix}.{name}": value.clone() for name, value in held.items()}
        for number, weight in enumerate(self.network.parameters()):
            moments = self._optimizer.state.get(weight, {})
            tensors |= {f"moment.{number}.{name}": moments[name].clone() for name in moments}
        for prefix, arrays in (
            ("replay", self._replay.arrays()),
            ("lookahead", self._lookahead.arrays()),
            ("environment", self.environment.arrays()),
        ):
            tensors |= {f"{prefix}.{name}": torch.tensor(value) for name, value in arrays.items()}
        notes = {
            "counters": vars(self.counters) | {"curve": [list(row) for row in self.counters.curve]},
            "averaged": self._average.updates,
            "generator": dict(self._generator.bit_generator.state),
            "environment": dict(self.environment.generator_state()),
        }
        return LearnerState(tensors, notes)

    def restore(self, state: LearnerState) -> None:
        """Puts back what `state` gave."""

        def under(prefix: str) -> dict[str, Tensor]:
            start = f"{prefix}."
            return {
                name.removeprefix(start): value
                for name, value in state.tensors.items()
                if name.startswith(start)
            }

        def arrays(prefix: str) -> Arrays:
            return {name: value.numpy() for name, value in under(prefix).items()}

        self.network.load_state_dict(under("network"))
        self._target.load_state_dict(under("target"))
        self._best = {name: value.clone() for name, value in under("best").items()}
        self._average.load(under("average"), state.notes["averaged"])
        for number, weight in enumerate(self.network.parameters()):
            moments = {name: value.clone() for name, value in under(f"moment.{number}").items()}
            if moments:
                self._optimizer.state[weight] = moments
        self._replay.restore(arrays("replay"))
        self._lookahead.restore(arrays("lookahead"))
        self.environment.restore(arrays("environment"), state.notes["environment"])
        counters = dict(state.notes["counters"])
        counters["curve"] = [(int(row[0]), row[1], row[2]) for row in counters["curve"]]
        self.counters = Counters(**counters)
        self._generator.bit_generator.state = dict(state.notes["generator"])
