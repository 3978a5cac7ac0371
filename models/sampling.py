"""Samples of a model as functions of (seed, number): flows by a solver, generators in one step."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from slimctl.models import counter_random
from slimctl.models.compilation import CompilesLater
from slimctl.models.conditions import Among, Condition, Embedded, Marginal, ordered_labels
from slimctl.models.counter_random import Stream
from slimctl.models.flows.flow import Flow
from slimctl.models.losses import one_step_image
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.spec import SolverSpec
from slimctl.models.spec import ImageShape


@dataclass(frozen=True)
class Samples:
    """A batch of samples."""

    images: Tensor
    """Pixels, float32 (B, C, H, W), not clipped."""
    labels: Tensor | None
    nfe: Tensor
    """Network evaluations of each sample, (B,)."""


@dataclass(frozen=True)
class Sampler:
    """A model on a device, ready to draw.

    Args:
        flow: its velocity.
        solver: how a flow is followed; None = in one step (a generator).
        label_counts: label marginal, or prompts; () if unconditional.
        device: where it computes.
        later: compiles the flow's networks where that pays; None = they stay as they are.
    """

    flow: Flow
    solver: SolverSpec | None
    label_counts: Marginal
    device: torch.device
    later: CompilesLater | None = None

    @property
    def image(self) -> ImageShape:
        """Shape of what the flow makes: pixels, or latents that are decoded."""
        return self.flow.image

    def noise(self, seed: int, index: Tensor) -> Tensor:
        """x0 of the samples `index`, float32 (B, C, H, W): the same for every model of a shape."""
        shape = (self.image.channels, self.image.size, self.image.size)
        return counter_random.normal(seed, Stream.SAMPLE_NOISE, index, shape)

    def labels(self, seed: int, index: Tensor) -> Tensor | None:
        """Labels of the samples `index` from the marginal; None if unconditional."""
        return ordered_labels(self.label_counts, seed, Stream.SAMPLE_LABEL, index)

    @torch.no_grad()
    def generate(self, x0: Tensor, label: Condition) -> tuple[Tensor, Tensor]:
        """Pixels of noise, and the network evaluations of each."""
        x1, nfe = self.follow(x0, label)
        return self.flow.decode(x1), nfe

    @torch.no_grad()
    def follow(self, x0: Tensor, label: Condition) -> tuple[Tensor, Tensor]:
        """Where the model takes noise, latents not being decoded, and the evaluations of each."""
        if self.solver is None:
            x1 = one_step_image(self.flow, x0, label)
            return x1, torch.ones(len(x0), dtype=torch.int64)
        solution = solve(self.solver, self.flow, x0, label)
        return solution.x1, solution.nfe

    def draw(
        self,
        seed: int,
        count: int,
        batch_size: int,
        first: int = 0,
        label: int | Embedded | None = None,
    ) -> Iterator[Samples]:
        """`count` samples of a seed from number `first` on, in batches.

        `label` is one class or one embedded text for all; None = they are drawn.
        """
        numbers = torch.arange(first, first + count, device=self.device)
        for index in torch.split(numbers, batch_size):
            labels = None if isinstance(label, Embedded) else self.labels(seed, index)
            if labels is not None and isinstance(label, int):
                labels = torch.full_like(labels, label)
            told: Condition = labels
            if isinstance(label, Embedded):
                told = label.to(self.device).repeat(len(index))
            with self.later.batch() if self.later else nullcontext():
                images, nfe = self.generate(self.noise(seed, index), told)
            yield Samples(images, labels, nfe)

    def classes(self) -> list[int]:
        """Classes that can be drawn, rising; none if unconditional, or of prompts."""
        if isinstance(self.label_counts, Among):
            return []
        return [label for label, count in enumerate(self.label_counts) if count]
