"""Scoring a one-step student on few samples while it trains."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from slimctl.jobs.base.artifacts import Dataset, FeatureNet
from slimctl.jobs.base.seeds import derive_seed
from slimctl.jobs.evaluation.features import Features, open_features
from slimctl.jobs.storage.part_images import load_part
from slimctl.jobs.storage.store import Store
from slimctl.models import counter_random
from slimctl.models.counter_random import Stream
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.flows.losses import one_step_velocity
from slimctl.models.metrics.frechet import frechet_distance
from slimctl.models.metrics.gaussians import Gaussian
from slimctl.models.metrics.kernel import unbiased_mmd
from slimctl.models.metrics.sliced_wasserstein import sliced_wasserstein
from slimctl.models.pixels import to_float, to_uint8
from slimctl.models.spec import ImageShape

BATCH = 250
REAL = 2000
"""Real images that a kernel distance looks at: its memory grows with their square."""


@dataclass
class Judge:
    """Distance of a student's samples to the real images of its labels; lower is better.

    With a feature network it is the Fréchet distance of features or their kernel distance, which
    is unbiased however few the samples are; without one the sliced Wasserstein distance of pixels.
    Its noise and labels are the same every time and are those of no other job.

    Args:
        store: where data and features are.
        data: real images.
        features: feature network of the distance; None = pixels.
        labels: labels that the student serves; None = all.
        label_counts: label marginal of the student; () if unconditional.
        image: shape of its images, with its classes.
        t_start: flow time at which it takes its step.
        samples: number of samples, >= 2.
        seed: of the job.
        measure: distance of features: `frechet` or `kernel`.
    """

    store: Store
    data: Dataset
    features: FeatureNet | None
    labels: tuple[int, ...] | None
    label_counts: tuple[int, ...]
    image: ImageShape
    t_start: float
    samples: int
    seed: int
    measure: Literal["frechet", "kernel"] = "frechet"

    def prepare(self, device: torch.device) -> None:
        """Loads the real images, and the feature network to the device."""
        images, _ = load_part(self.store, self.data, self.labels, conditional=False)
        self._device = device
        self._extract: Features | None = None
        if self.features is None:
            self._points = to_float(self._some(images, self.samples)).flatten(1)
            return
        self._extract = open_features(self.store, self.features, device)
        if self.measure == "kernel":
            self._points = self._extract(self._some(images, REAL))
            return
        self._real = Gaussian.from_features(self._extract(images))

    def _some(self, images: Tensor, most: int) -> Tensor:
        """So many images at random, or all where there are fewer."""
        index = torch.arange(min(most, len(images)))
        return images[counter_random.shuffled_index(self.seed, 0, index, len(images))]

    def __call__(self, network: nn.Module) -> float:
        """The distance of a network in evaluation mode."""
        made = self._draw(NetworkFlow(network, self.image, self.t_start))
        if self._extract is None:
            return sliced_wasserstein(self._points, made.flatten(1))
        features = self._extract(to_uint8(made))
        if self.measure == "kernel":
            return unbiased_mmd(self._points, features)
        return frechet_distance(self._real, Gaussian.from_features(features))

    @torch.no_grad()
    def _draw(self, flow: NetworkFlow) -> Tensor:
        """Samples float32 (samples, C, H, W) on the CPU."""
        seed = derive_seed(self.seed, "judge")
        shape = (self.image.channels, self.image.size, self.image.size)
        images = []
        for index in torch.split(torch.arange(self.samples, device=self._device), BATCH):
            x0 = counter_random.normal(seed, Stream.SAMPLE_NOISE, index, shape)
            label = None
            if self.label_counts:
                counts, stream = self.label_counts, Stream.SAMPLE_LABEL
                label = counter_random.categorical(seed, stream, index, counts)
            images.append((x0 + one_step_velocity(flow, x0, label)).cpu())
        return torch.cat(images)


@dataclass(frozen=True)
class Watch:
    """Scores taken of a student while it trains, which change nothing of what comes out.

    Args:
        judge: takes them.
        every: optimizer steps between two of them, >= 1.
    """

    judge: Judge
    every: int
