"""The samples of an evaluation in shards: what is kept of them, and how shards add up.

Sample i is a function of (seed, i), a shard has whole batches, and shards are added up in their
order, so any number of processes, after any crash, comes to the same numbers. An evaluation of one
shard writes none; those of more are in the job's work folder until the job ends.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

from slimctl.jobs.base.artifacts import (
    Autoencoder,
    Dataset,
    FeatureNet,
    Fleet,
    Flow,
    Generator,
    Partition,
    StepGrid,
)
from slimctl.jobs.base.guidance import Guidance
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.turns import in_turns
from slimctl.jobs.evaluation.features import Features, open_features
from slimctl.jobs.evaluation.sampling import open_sampler
from slimctl.jobs.evaluation.shards import Shard
from slimctl.jobs.pairs.shards import ShardRecord, find_record, write_tensors
from slimctl.jobs.storage.store import Store
from slimctl.models.metrics.gaussians import Gaussian, RunningStatistics
from slimctl.models.pixels import to_uint8
from slimctl.models.sampling import Sampler
from slimctl.models.solvers.spec import SolverSpec
from slimctl.models.spec import SamplingPrecision

NEAREST_SAMPLES = 1000


class EvaluationSettings(Protocol):
    """What the measurements read of their job's spec."""

    @property
    def seed(self) -> int | None: ...
    @property
    def solver(self) -> SolverSpec | Ref[StepGrid] | None: ...
    @property
    def samples(self) -> int: ...
    @property
    def draws(self) -> int: ...
    @property
    def reference(self) -> str | None: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def precision(self) -> SamplingPrecision: ...
    @property
    def metrics(self) -> tuple[str, ...]: ...
    @property
    def neighbours(self) -> int: ...
    @property
    def manifold_samples(self) -> int: ...


@dataclass(frozen=True)
class Evaluation:
    """All that decides a report, by pickle."""

    store: Store
    artifact_id: str
    """Of the report."""
    spec: EvaluationSettings
    model: Flow | Generator | Fleet
    data: Dataset
    features: FeatureNet
    partition: Partition | None
    solver: SolverSpec | None
    guidance: Guidance | None = None
    decoder: Autoencoder | None = None
    """What decodes latents; None = the model's own."""

    @property
    def seed(self) -> int:
        """Of all samples."""
        return self.spec.seed or 0

    def open(self, device: torch.device, threads: int) -> "Opened":
        """Model and feature network on a device.

        Raises:
            UserError: model and solver do not go together.
        """
        spec = self.spec
        batches = spec.draws * -(-spec.samples // spec.batch_size)
        sampler = open_sampler(
            self.store, self.model, self.solver, device, self.guidance, spec.precision, batches,
            self.decoder,
        )  # fmt: skip
        return Opened(sampler, open_features(self.store, self.features, device, threads))


@dataclass(frozen=True)
class Opened:
    """Model and feature network on a device."""

    sampler: Sampler
    extract: Features


@dataclass
class Drawn:
    """What is kept of samples while they pass by."""

    images: list[Tensor] = field(default_factory=list)
    """uint8 (n, C, H, W) of the first ones of draw 1."""
    features: list[Tensor] = field(default_factory=list)
    """float32 (n, D) of the first ones of draw 1."""
    labels: list[Tensor] = field(default_factory=list)
    """int64 (n,) beside the features; none if unconditional."""
    statistics: dict[int, RunningStatistics] = field(default_factory=dict)
    """Of the features of all samples, by draw."""
    nfe: int = 0
    """Network evaluations of all samples."""

    def rows(self) -> tuple[Tensor, Tensor | None]:
        """Features and labels of the first samples; labels None if unconditional."""
        return torch.cat(self.features), torch.cat(self.labels) if self.labels else None

    def all_images(self) -> Tensor:
        """The first samples, uint8 (n, C, H, W)."""
        return torch.cat(self.images)

    def gaussians(self) -> list[Gaussian]:
        """Of the features of each draw."""
        return [self.statistics[draw].result() for draw in sorted(self.statistics)]

    def add(self, later: "Drawn") -> None:
        """Takes in the next shard."""
        self.images += later.images
        self.features += later.features
        self.labels += later.labels
        for draw, running in later.statistics.items():
            self.statistics.setdefault(draw, RunningStatistics()).merge(running)
        self.nfe += later.nfe


def draw_shard(
    evaluation: Evaluation, opened: Opened, shard: Shard, seen: Callable[[int], None]
) -> Drawn:
    """Makes the samples of a shard; `seen` hears of each batch how many it has.

    Raises:
        FloatingPointError: the samples are not finite.
    """
    spec, drawn, running = evaluation.spec, Drawn(), RunningStatistics()
    start, done = shard.draw * spec.samples + shard.first, shard.first
    drawing = opened.sampler.draw(evaluation.seed, shard.count, spec.batch_size, start)
    for batch in in_turns(drawing):
        if not bool(batch.images.isfinite().all()):
            raise FloatingPointError(
                f"samples {shard.draw * spec.samples + done}.. hold NaN or infinity: weights are "
                "broken"
            )
        images = to_uint8(batch.images)
        features = opened.extract.on_device(images)
        running.add(features)
        if shard.draw == 0:
            _keep(drawn.images, images, NEAREST_SAMPLES - done)
            _keep(drawn.features, features, spec.manifold_samples - done)
            if batch.labels is not None:
                _keep(drawn.labels, batch.labels, spec.manifold_samples - done)
        drawn.nfe += int(batch.nfe.sum())
        done += len(images)
        seen(len(images))
    drawn.statistics[shard.draw] = RunningStatistics.from_tensors(running.to_tensors())
    return drawn


def _keep(parts: list[Tensor], rows: Tensor, most: int) -> None:
    """Adds the first rows to the parts, on the CPU; a copy, so that no batch is held."""
    if most > 0:
        parts.append(rows[:most].cpu().clone())


def find_drawn(evaluation: Evaluation, shard: Shard) -> ShardRecord | None:
    """The record of a shard that was finished and written; None if there is none."""
    return find_record(evaluation.store, _name(evaluation, shard))


def write_drawn(
    evaluation: Evaluation, shard: Shard, drawn: Drawn, started: float, device: str
) -> ShardRecord:
    """Writes a shard, then its record.

    Args:
        evaluation: that it is of.
        shard: of the evaluation.
        drawn: what is kept of its samples.
        started: when it was begun, by `time.perf_counter`.
        device: in words.
    """
    tensors = {f"statistics.{k}": v for k, v in drawn.statistics[shard.draw].to_tensors().items()}
    for name in ("images", "features", "labels"):
        if parts := getattr(drawn, name):
            tensors[name] = torch.cat(parts)
    seconds = time.perf_counter() - started
    name = _name(evaluation, shard)
    return write_tensors(evaluation.store, name, tensors, drawn.nfe, seconds, device)


def read_drawn(evaluation: Evaluation, shard: Shard, record: ShardRecord) -> Drawn:
    """What was written of a shard.

    Raises:
        DamagedArtifact: its file is not what the record says.
    """
    tensors = load_file(evaluation.store.shard(record.file))
    part = "statistics."
    running = RunningStatistics.from_tensors(
        {key.removeprefix(part): v for key, v in tensors.items() if key.startswith(part)}
    )
    kept = {name: [tensors[name]] for name in ("images", "features", "labels") if name in tensors}
    return Drawn(**kept, statistics={shard.draw: running}, nfe=round(record.nfe_sum))


def added_up(evaluation: Evaluation, shards: Sequence[Shard]) -> Drawn:
    """All shards, which have been written.

    Raises:
        DamagedArtifact: a file is not what its record says.
        FileNotFoundError: a shard is not there.
    """
    drawn = Drawn()
    for shard in shards:
        record = find_drawn(evaluation, shard)
        if record is None:
            raise FileNotFoundError(f"{_name(evaluation, shard)}: the shard is gone")
        drawn.add(read_drawn(evaluation, shard, record))
    return drawn


def _name(evaluation: Evaluation, shard: Shard) -> str:
    """Path of a shard inside the storage, without its ending."""
    return f"work/{evaluation.artifact_id}/samples/shard-{shard.number:06d}"
