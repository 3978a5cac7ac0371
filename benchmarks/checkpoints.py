"""What checkpoints of a large state cost a training.

    python -m benchmarks.checkpoints

A network of 300 M weights, whose state with average and moments is 4.8 GB, trains for some minutes
in a temporary folder. A checkpoint costs the copy, for which the training stands still, and what
its writing takes from the steps beside it. Both are CPU time of the training's own thread, since a
machine that others use makes wall time measure the others. Needs 16 GiB of memory, 10 GB of disk.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmarks.measure import show
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.training.checkpoint import Checkpoint, CheckpointWriter
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import WHOLE, Objective, Part, Share

WIDTH, LAYERS = 7071, 6
EVERY_S = 60.0
"""The default of `checkpoint_s`, which the share is of."""


@dataclass
class Step:
    """The beginning of a step, by the clock and by the CPU time of its thread, s."""

    at: float
    cpu: float


@dataclass
class Watched(Objective):
    """A loss that notes when each step begins, and ends the training in time."""

    until: float
    begun: list[Step] = field(default_factory=list)

    def prepare(self, share: Share) -> None:
        """There is no data."""

    def loss(self, network: nn.Module, step: int, part: Part = WHOLE) -> Tensor:
        self.begun.append(Step(time.perf_counter(), time.thread_time()))
        if self.begun[-1].at > self.until:
            raise KeyboardInterrupt
        loss: Tensor = network(torch.full((1, WIDTH), 1e-3)).square().mean()
        return loss


@dataclass
class Write:
    """One checkpoint: CPU time of its copy, s, and from when to when it was written."""

    copy_cpu: float
    begun: float
    ended: float = 0.0


def watch_writes() -> list[Write]:
    """Notes every checkpoint from now on."""
    begin, writes = CheckpointWriter.begin, list[Write]()

    def noted(writer: CheckpointWriter, checkpoint: Checkpoint) -> None:
        cpu = time.thread_time()
        begin(writer, checkpoint)
        write = Write(time.thread_time() - cpu, time.perf_counter())
        assert writer.under_way is not None
        writer.under_way.add_done_callback(lambda _: setattr(write, "ended", time.perf_counter()))
        writes.append(write)

    CheckpointWriter.begin = noted  # type: ignore[method-assign, assignment]
    return writes


def figures(begun: list[Step], writes: list[Write]) -> dict[str, float]:
    """Steps beside a write and without one, and the share that checkpoints take of the time."""
    steps: dict[bool, list[float]] = {True: [], False: []}
    for step, after in itertools.pairwise(begun):
        if not any(step.at <= write.begun <= after.at for write in writes):  # it holds the copy
            beside = any(write.begun < after.at and step.at < write.ended for write in writes)
            steps[beside].append(after.cpu - step.cpu)
    free, beside_s = (statistics.median(steps[beside]) for beside in (False, True))
    written = statistics.median(write.ended - write.begun for write in writes)
    # The first copy takes the memory that later ones reuse.
    copy = statistics.median(write.copy_cpu for write in writes[1:])
    lost = copy + written * (1 - free / beside_s)
    return {
        "step_s": free,
        "step_beside_a_write_s": beside_s,
        "first_copy_s": writes[0].copy_cpu,
        "copy_s": copy,
        "written_s": written,
        "checkpoints": len(writes),
        "share": lost / (EVERY_S + copy + written),
    }


def main() -> None:
    """Trains and prints the figures."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=240.0, help="of training")
    options.add_argument("--checkpoint-s", type=float, default=15.0)
    options.add_argument("--folder", help="where to write; default: a temporary one")
    asked = options.parse_args()
    torch.set_num_threads(1)
    layers = [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)]
    spec = TrainFlow.model_validate(
        {"data": "d", "network": {"kind": "song_unet", "channels": 4}, "steps": 10**9}
        | {"batch_size": 1, "seed": 1, "checkpoint_s": asked.checkpoint_s, "log_every": 10**9}
    )
    writes = watch_writes()
    objective = Watched(time.perf_counter() + asked.seconds)
    share = Share(0, 1, 1, torch.device("cpu"))
    network = nn.Sequential(*layers)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        trainer = Trainer(spec, network, objective, share, LocalBlobs(folder), lambda *_: None)
        try:
            trainer.run()
        except KeyboardInterrupt:
            show(
                figures(objective.begun, [write for write in writes if write.ended]), as_json=False
            )


if __name__ == "__main__":
    main()
