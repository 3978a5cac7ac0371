"""Training the classifier whose features serve the metrics: short, in one process."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from slimctl.jobs.base.artifacts import Dataset
from slimctl.jobs.base.errors import TrainingDiverged
from slimctl.jobs.base.keys import derive_seed
from slimctl.jobs.base.turns import computing
from slimctl.models.pixels import to_float

if TYPE_CHECKING:
    from slimctl.jobs.kinds.train_features import TrainFeatures

PROGRESS_EVERY = 50


@dataclass(frozen=True)
class TrainedClassifier:
    """Result of the training."""

    weights: Mapping[str, Tensor]
    dimensions: int
    accuracy: float
    """Share of held-out images classified rightly, 0..1."""


def train_classifier(
    spec: "TrainFeatures",
    images: Tensor,
    labels: Tensor | None,
    data: Dataset,
    device: torch.device,
    progress: Callable[..., Any],
) -> TrainedClassifier:
    """Trains on a random part of the images and measures the accuracy on the rest.

    Args:
        spec: settings.
        images: uint8 (N, C, H, W), N >= 2.
        labels: int64 (N,).
        data: handle of the data set.
        device: where to train.
        progress: called with (step, steps, loss=...).

    Raises:
        TrainingDiverged: the loss is no longer finite.
    """
    assert labels is not None
    seed = spec.seed or 0
    generator = torch.Generator().manual_seed(derive_seed(seed, "classifier"))
    order = torch.randperm(len(images), generator=generator)
    kept = min(max(1, round(spec.held_out * len(images))), len(images) - 1)
    held_out, train = order[:kept], order[kept:]
    torch.manual_seed(derive_seed(seed, "weights"))
    network = spec.network.build(data.image).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=spec.learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, spec.steps)
    for step in range(spec.steps):
        picked = torch.randint(len(train), (spec.batch_size,), generator=generator)
        index = train[picked]
        with computing():
            x = _shifted(to_float(images[index].to(device)), spec.shift, generator)
            loss = functional.cross_entropy(network(x), labels[index].to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
        if (step + 1) % PROGRESS_EVERY == 0 or step + 1 == spec.steps:
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingDiverged(
                    "", f"the loss is {value} at step {step}", "lower learning_rate"
                )
            progress(step + 1, spec.steps, loss=value)
    network.eval()
    with torch.no_grad():
        chunks = [
            network(to_float(images[part].to(device))).argmax(1).cpu()
            for part in torch.split(held_out, 1000)
        ]
    accuracy = float((torch.cat(chunks) == labels[held_out]).float().mean())
    return TrainedClassifier(network.state_dict(), spec.network.features, accuracy)


def _shifted(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Moves a batch by up to `most` pixels each way; what comes in is black."""
    if most == 0:
        return x
    size = x.shape[-1]
    down, right = torch.randint(2 * most + 1, (2,), generator=generator).tolist()
    padded = functional.pad(x, (most, most, most, most), value=-1.0)
    return padded[:, :, down : down + size, right : right + size]
