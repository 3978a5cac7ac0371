"""Scoring a one-step student on few samples while it trains."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jobs.base.artifacts import Dataset, FeatureNet
from jobs.base.seeds import derive_seed
from jobs.evaluation.features import Features, open_features
from jobs.storage.part_images import load_part
from jobs.storage.store import Store
from models import counter_random
from models.counter_random import Stream
from models.flows.flow import NetworkFlow
from models.flows.losses import one_step_velocity
from models.metrics.frechet import GaussianStatistics, frechet_distance
from models.metrics.sliced_wasserstein import sliced_wasserstein
from models.pixels import to_float, to_uint8
from models.spec import ImageShape

BATCH = 250


@dataclass
class Judge:
    """Distance of a student's samples to the real images of its labels; lower is better.

    With a feature network it is the Fréchet distance of features, without one the sliced
    Wasserstein distance of pixels. Its noise and labels are the same every time and are those of no
    other job.

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

    def prepare(self, device: torch.device) -> None:
        """Loads the real images, and the feature network to the device."""
        images, _ = load_part(self.store, self.data, self.labels, conditional=False)
        self._device = device
        self._extract: Features | None = None
        if self.features is None:
            index = torch.arange(min(self.samples, len(images)))
            chosen = counter_random.shuffled_index(self.seed, 0, index, len(images))
            self._points = to_float(images[chosen]).flatten(1)
            return
        self._extract = open_features(self.store, self.features, device)
        self._real = GaussianStatistics.from_features(self._extract(images))

    def __call__(self, network: nn.Module) -> float:
        """The distance of a network in evaluation mode."""
        made = self._draw(NetworkFlow(network, self.image, self.t_start))
        if self._extract is None:
            return sliced_wasserstein(self._points, made.flatten(1))
        own = GaussianStatistics.from_features(self._extract(to_uint8(made)))
        return frechet_distance(self._real, own)

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
