"""Scoring the averaged weights that a training passes through, and keeping the best of them.

Where the loss says nothing about quality, a score on few samples decides. The start is scored too,
so a training never returns something worse than what it began with, as far as the score can tell.
Elsewhere the scores are only watched, and the last weights are the result.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimctl.models.ema import PowerEMA

WEIGHTS, SCORES = "best.", "score."
"""Prefixes of its tensors in a checkpoint."""


@dataclass(frozen=True)
class Scores:
    """What the scores of a training came to; lower is better."""

    start: float
    """Of the weights it began with."""
    best: float
    best_step: int
    """Optimizer step after which the best was reached; 0 = the start itself."""
    last: float


class ScoredAverage:
    """The scores of the averaged weights so far, and the best of these weights.

    Args:
        network: the student's, as a mould for the averaged one.
        ema: its average.
        score: of a network in evaluation mode.
        keep: whether to keep the best weights.
    """

    def __init__(
        self,
        network: nn.Module,
        ema: PowerEMA,
        score: Callable[[nn.Module], float],
        *,
        keep: bool = True,
    ) -> None:
        self._judged = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        self._ema = ema
        self._score = score
        self._keep = keep
        self._weights: dict[str, Tensor] = {}
        self.scores: Scores | None = None

    def judge(self, step: int) -> float:
        """The score of the average after `step` steps, which is kept if none before was better."""
        self._ema.copy_to(self._judged)
        with torch.no_grad():
            value = self._score(self._judged)
        known = self.scores
        if known is None or value < known.best:
            if self._keep:
                self._weights = {name: each.clone() for name, each in self._ema.average.items()}
            self.scores = Scores(known.start if known else value, value, step, value)
        else:
            self.scores = Scores(known.start, known.best, known.best_step, value)
        return value

    def state(self) -> dict[str, Tensor]:
        """Weights and scores by name, for a checkpoint."""
        state = {f"{WEIGHTS}{name}": value for name, value in self._weights.items()}
        numbers = {} if self.scores is None else vars(self.scores)
        double = torch.float64
        return state | {f"{SCORES}{n}": torch.tensor(v, dtype=double) for n, v in numbers.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continues from what `state` named; a checkpoint's other tensors are left alone."""
        self._weights = best_weights(state)
        self.scores = read_scores(state)


def best_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The best averaged weights in a checkpoint; none where none were kept."""
    names = (name for name in state if name.startswith(WEIGHTS))
    return {name.removeprefix(WEIGHTS): state[name] for name in names}


def read_scores(state: Mapping[str, Tensor]) -> Scores | None:
    """The scores in a checkpoint; None where nothing was scored."""
    names = (name for name in state if name.startswith(SCORES))
    numbers = {name.removeprefix(SCORES): float(state[name]) for name in names}
    if not numbers:
        return None
    step = int(numbers.pop("best_step"))
    return Scores(**numbers, best_step=step)
