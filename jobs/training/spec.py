"""What every job that trains a network lets the user choose."""

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.elastic import Range, range_mistake
from slimctl.jobs.base.facts import FieldError
from slimctl.jobs.base.spec import SPEED_ONLY, Placement, SeededJobSpec
from slimctl.models.networks.classifier.spec import ClassifierSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.precision import Precision
from slimctl.models.spec import ImageShape

Decay = Annotated[float, Field(ge=0, lt=1)]
SMALLEST_CPU_SHARE = 32
"""Samples per step below which another CPU worker costs more than it brings."""


def check_network(network: NetworkSpec | ClassifierSpec | None, image: ImageShape | None) -> None:
    """Checks that a network can serve images of that shape, where both are known.

    Raises:
        FieldError: it cannot.
    """
    if network is None or image is None:
        return
    try:
        network.check(image)
    except ValueError as error:
        what, _, fix = str(error).partition("\n  fix: ")
        raise FieldError("network", what, fix) from error


class TrainingSpec(SeededJobSpec):
    """Settings of the training loop, shared by all kinds that train."""

    placement: ClassVar[Placement] = "own"

    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=128, ge=1)
    """Samples per optimizer step, over all workers."""
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    """Adam's learning rate after warm-up."""
    warmup: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly from 0."""
    decay: Literal["constant", "cosine"] = "constant"
    """Learning rate after warm-up: constant, or a half cosine down to 0 at the last step."""
    adam_betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of Adam's two moments, each in [0, 1)."""
    adam_epsilon: float = Field(default=1e-8, gt=0)
    """Adam's epsilon."""
    gradient_clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient; null = no clipping."""
    ema_decay: float = Field(default=0.999999, gt=0, lt=1)
    """Largest decay of the weight average; early on it is (1 + n) / (10 + n)."""
    precision: Literal["auto"] | Precision = "auto"
    """Of products and convolutions in training, all else being float32; auto = bfloat16 where the
    device has it."""
    workers: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)] | Range, SPEED_ONLY] = "auto"
    """Ray Train workers; auto = one per GPU, on CPUs one per core up to 8 with 32 samples each;
    {min, max} = as many of them as the cluster has at the time."""
    threads: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)], SPEED_ONLY] = "auto"
    """CPU threads of a worker; auto = 1 on CPUs, up to 4 beside a GPU."""
    shared: Annotated[Literal["auto"] | bool, SPEED_ONLY] = "auto"
    """Whether to train without Ray Train, which takes 12 s and four more processes to start: true =
    in a process that serves other short jobs too, with one worker; false = never; auto = in a
    process of its own where there is one worker, on CPUs."""
    checkpoint_s: Annotated[float, Field(gt=0), SPEED_ONLY] = 60.0
    """Longest training time between two checkpoints, s."""
    log_every: Annotated[int, Field(ge=1), SPEED_ONLY] = 50
    """Steps between two points of the loss curve."""

    def batches(self) -> dict[str, int]:
        """Sizes of the batches of a step, by field name; each is split evenly over the workers."""
        return {"batch_size": self.batch_size}

    @model_validator(mode="after")
    def _batches_split(self) -> Self:
        if mistake := range_mistake(self.workers):
            raise ValueError(f"workers: {mistake}")
        if self.shared is True and self.workers not in ("auto", 1):
            raise ValueError(
                f"shared: true trains in one process, not in {self.workers} workers; "
                "leave workers out, or set shared: false"
            )
        for name, size in self.batches().items():
            for workers in self.worker_counts():
                if size % workers:
                    raise ValueError(
                        f"{name} {size} cannot be split evenly over {workers} workers; "
                        f"make it a multiple of {math.lcm(*self.worker_counts())}"
                    )
        return self

    def worker_counts(self) -> range:
        """The numbers of workers that the spec names; empty for auto."""
        if isinstance(self.workers, Range):
            return range(self.workers.min, self.workers.max + 1)
        return range(0) if self.workers == "auto" else range(self.workers, self.workers + 1)

    def layout(self, cluster: Cluster) -> tuple[int, int]:
        """Workers and CPU threads per worker: fixed functions of the whole cluster and the spec.

        Of a range of workers it is the smallest number: a job starts as soon as those are free.

        On CPUs a worker has one thread: workers wait for each other once a step, threads at every
        operation, which on a busy machine costs several times as much (measured: 66 ms a step on
        one thread became 430 ms on two).
        """
        if self.shared is True:
            workers = 1
        elif isinstance(self.workers, Range):
            workers = self.workers.min
        elif self.workers != "auto":
            workers = self.workers
        else:
            most = cluster.gpus or min(cluster.cpus, self.batch_size // SMALLEST_CPU_SHARE, 8)
            sizes = self.batches().values()
            workers = max(n for n in range(1, max(1, most) + 1) if all(b % n == 0 for b in sizes))
        if self.threads != "auto":
            return workers, self.threads
        return workers, min(4, cluster.node_cpus) if cluster.gpus else 1

    def in_process(self, cluster: Cluster) -> bool:
        """Whether the job's own process trains, without Ray Train: the result is the same."""
        if isinstance(self.shared, bool):
            return self.shared
        most = max(self.worker_counts(), default=self.layout(cluster)[0])
        return most == 1 and cluster.gpus == 0

    def placed(self, cluster: Cluster) -> Placement:
        if self.shared is True:
            return "shared"
        return "alone" if self.in_process(cluster) else self.placement

    def needs(self, cluster: Cluster) -> Needs:
        workers, threads = self.layout(cluster)
        return Needs(cpus=workers * threads, gpus=workers if cluster.gpus else 0)
