"""Scoring a one-step student on few samples while it trains, and keeping its best weights.

Where the loss says nothing about quality, a score on few samples decides. The start is scored too,
so a training never returns something worse than what it began with, as far as the score can tell.
Elsewhere the scores are only watched, and the last weights are the result.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from slimctl.jobs.base.artifacts import Autoencoder, Dataset, FeatureNet
from slimctl.jobs.base.keys import derive_seed
from slimctl.jobs.evaluation.features import Features, open_features
from slimctl.jobs.storage.autoencoders import open_autoencoder
from slimctl.jobs.storage.cache import cached
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import PartRows, part_rows
from slimctl.models import counter_random
from slimctl.models.conditions import Marginal, draw_labels
from slimctl.models.counter_random import Stream
from slimctl.models.ema import PowerEMA
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.losses import one_step_image
from slimctl.models.metrics.frechet import frechet_distance
from slimctl.models.metrics.gaussians import Factored, gaussian_of
from slimctl.models.metrics.kernel import unbiased_mmd
from slimctl.models.metrics.sliced_wasserstein import sliced_wasserstein
from slimctl.models.pixels import to_float, to_uint8
from slimctl.models.spec import ImageShape

BATCH = 250
READ = 4000
"""Real images in memory at once."""
FORMAT = 1
"""Of what is kept of the real images: raised when the same key would hold something else."""
REAL = 2000
"""Real images that a kernel distance looks at: its memory grows with their square."""


@dataclass
class Evaluator:
    """Distance of a student's samples to the real images of its labels; lower is better.

    With a feature network it is the Fréchet distance of features or their kernel distance, which
    is unbiased however few the samples are; without one the sliced Wasserstein distance of pixels.
    Its noise and labels are the same every time and are those of no other job.

    Args:
        store: where data and features are.
        data: real images.
        features: feature network of the distance; None = pixels.
        labels: labels that the student serves; None = all.
        label_counts: label marginal of the student, or prompts; () if unconditional.
        image: shape of its images, with its classes.
        t_start: flow time at which it takes its step.
        samples: number of samples, >= 2.
        seed: of the job.
        measure: distance of features: `frechet` or `kernel`.
        autoencoder: what decodes its samples, which are latents then; None = they are pixels.
    """

    store: Store
    data: Dataset
    features: FeatureNet | None
    labels: tuple[int, ...] | None
    label_counts: Marginal
    image: ImageShape
    t_start: float
    samples: int
    seed: int
    measure: Literal["frechet", "kernel"] = "frechet"
    autoencoder: Autoencoder | None = None

    def prepare(self, device: torch.device, rank: int = 0, world: int = 1) -> None:
        """Loads the feature network to the device, and on the first worker the real images.

        Args:
            device: where samples are made and looked at.
            rank: of this worker.
            world: number of workers, each of which makes its part of the samples.
        """
        self._device, self._rank, self._world = device, rank, world
        self._decoder = open_autoencoder(self.store, self.autoencoder, device)
        self._extract: Features | None = None
        if self.features is not None:
            self._extract = open_features(self.store, self.features, device)
        if rank > 0:
            return
        if self._extract is None:
            self._points = to_float(self._some(self._part(), self.samples)).flatten(1)
            return
        assert self.features is not None
        drawn = self.seed if self.measure == "kernel" else None
        asked = [FORMAT, self.data.id, self.features.id, self.labels, self.measure, drawn]
        made = partial(self._measure_real, self._extract)
        tensors = cached(self.store, "scored", " ".join(map(str, asked)), made, dict)
        if self.measure == "kernel":
            self._points = tensors["points"]
        else:
            self._real = Factored(tensors["mean"], tensors["root"], tensors["spread"])

    def _measure_real(self, extract: Features) -> dict[str, Tensor]:
        """What a distance of features asks of the real images: made once for all attempts."""
        part = self._part()
        if self.measure == "kernel":
            return {"points": extract(self._some(part, REAL))}
        pieces = torch.split(torch.arange(part.count), READ)
        features = torch.cat([extract(part.images(piece)) for piece in pieces])
        real = Factored.of(gaussian_of(features))
        return {"mean": real.mean, "root": real.root, "spread": real.spread}

    def _part(self) -> PartRows:
        return part_rows(self.store, self.data, self.labels)

    def _some(self, part: PartRows, most: int) -> Tensor:
        """So many images at random, or all where there are fewer."""
        index = torch.arange(min(most, part.count))
        return part.images(counter_random.shuffled_index(self.seed, 0, index, part.count))

    def __call__(self, network: nn.Module) -> float | None:
        """The distance of a network in evaluation mode; None on all workers but the first.

        All workers have to ask. They go on when the samples are made; the first one compares.
        """
        flow = NetworkFlow(network, self.image, self.t_start)
        flow.autoencoder = self._decoder
        made = self._draw(flow)
        rows = made.flatten(1)
        if self._extract is not None:
            assert self.features is not None
            empty = made.new_empty(0, self.features.dimensions)
            rows = self._extract(to_uint8(made)) if len(made) else empty
        rows = self._of_all_workers(rows)
        if self._rank > 0:
            return None
        if self._extract is None:
            return sliced_wasserstein(self._points, rows)
        if self.measure == "kernel":
            return unbiased_mmd(self._points, rows)
        return frechet_distance(self._real, gaussian_of(rows))

    def _batches(self, rank: int) -> list[Tensor]:
        """Numbers of the samples that a worker makes, those of each batch."""
        index = torch.arange(self.samples, device=self._device)
        batches = torch.split(index, BATCH)
        empty = -len(batches) % self._world  # equally many, where a network takes all workers
        return [*batches, *[index[:0]] * empty][rank :: self._world]

    @torch.inference_mode()
    def _draw(self, flow: NetworkFlow) -> Tensor:
        """This worker's samples, pixels float32 (n, C, H, W) on the CPU."""
        seed = derive_seed(self.seed, "judge")
        shape = (self.image.channels, self.image.size, self.image.size)
        images = []
        for index in self._batches(self._rank):
            x0 = counter_random.normal(seed, Stream.SAMPLE_NOISE, index, shape)
            label = draw_labels(self.label_counts, seed, Stream.SAMPLE_LABEL, index)
            made = one_step_image(flow, x0, label)
            images.append(flow.decode(made).cpu())
        return torch.cat(images)

    def _of_all_workers(self, rows: Tensor) -> Tensor:
        """The rows (samples, D) that the workers have, on the CPU, in the order of the samples."""
        if self._world == 1:
            return rows
        numbers = [torch.cat(self._batches(rank)) for rank in range(self._world)]
        sent = torch.zeros(len(numbers[0]), rows.shape[1], device=self._device)
        sent[: len(rows)] = rows.to(self._device)
        got = [torch.empty_like(sent) for _ in range(self._world)]
        torch.distributed.all_gather(got, sent)
        every = torch.empty(self.samples, rows.shape[1], device=self._device)
        for index, part in zip(numbers, got, strict=True):
            every[index] = part[: len(index)]
        return every.cpu()


@dataclass(frozen=True)
class Watch:
    """Scores taken of a student while it trains, which change nothing of what comes out."""

    evaluator: Evaluator
    every: int
    """Optimizer steps between two of them, >= 1."""


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
        averaged: a copy of the student's network, which takes the average.
        ema: its average.
        score: of a network in evaluation mode; None where another worker has it.
        keep: whether to keep the best weights.
    """

    def __init__(
        self,
        averaged: nn.Module,
        ema: PowerEMA,
        score: Callable[[nn.Module], float | None],
        *,
        keep: bool = True,
    ) -> None:
        self._scored = averaged.eval().requires_grad_(requires_grad=False)
        self._ema = ema
        self._score = score
        self._keep = keep
        self._weights: dict[str, Tensor] = {}
        self.scores: Scores | None = None

    def score(self, step: int) -> float | None:
        """The score of the average after `step` steps, which is kept if none before was better.

        None where another worker has it.
        """
        self._ema.copy_to(self._scored)
        with torch.no_grad():
            value = self._score(self._scored)
        if value is None:
            return None
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
