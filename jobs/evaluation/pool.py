"""An evaluation on a pool of Ray actors: real images, shards of samples, and the end of it.

Whatever needs a device is an item of the pool, so the job itself holds none. The last item comes
when all others are done and the other actors have given their devices back.
"""

import time
from functools import partial
from threading import Lock
from typing import Any

import torch

from slimctl.jobs.base.artifacts import QualityReport
from slimctl.jobs.base.cluster import Needs
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.drain import asked_to_leave, forget_notice
from slimctl.jobs.base.failures import classified
from slimctl.jobs.evaluation.draws import (
    Evaluation,
    Opened,
    added_up,
    draw_shard,
    find_drawn,
    write_drawn,
)
from slimctl.jobs.evaluation.quality import Concluded, conclude, measure_reals
from slimctl.jobs.evaluation.shards import Shard, shards_of
from slimctl.jobs.pairs.pool import Life, Pool, describe_device, start_actors

REAL, END = -1, -2
"""Items that are no shards: what is taken of the real images, and the report."""


class EvaluationActor:
    """Works at one item at a time."""

    def __init__(self, evaluation: Evaluation, threads: int) -> None:
        self._evaluation = evaluation
        self._threads = threads
        spec = evaluation.spec
        self._shards = shards_of(spec.samples, spec.draws, spec.batch_size)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._kept: Opened | None = None
        self._working = Lock()

    def ready(self) -> Life:
        """Answers once model and features are loaded; here, since Ray hides a constructor's errors.

        Raises:
            UserError: they do not fit what is asked.
            DamagedArtifact: a file is not what its manifest says.
        """
        with self._working:
            self._opened()
        return Life.here()

    def _opened(self) -> Opened:
        torch.set_num_threads(self._threads)
        if self._kept is None:
            self._kept = self._evaluation.open(self._device, self._threads)
        return self._kept

    def make(self, item: int) -> "tuple[float, str, Concluded | None]":
        """Does an item; returns the seconds that it took, the device, and the end's result.

        Raises:
            OutOfMemory, BadDevice: its GPU has too little memory, or failed.
        """
        with self._working, classified(""):
            started, opened, result = time.perf_counter(), self._opened(), None
            if item == REAL:
                measure_reals(self._evaluation, opened)
            elif item == END:
                result = conclude(
                    self._evaluation, opened, added_up(self._evaluation, self._shards)
                )
            elif find_drawn(self._evaluation, self._shards[item]) is None:
                self._draw(self._shards[item], opened, started)
        return time.perf_counter() - started, describe_device(self._device), result

    def _draw(self, shard: Shard, opened: Opened, started: float) -> None:
        drawn = draw_shard(self._evaluation, opened, shard, _unheard)
        write_drawn(self._evaluation, shard, drawn, started, describe_device(self._device))


def _unheard(count: int) -> None:
    """Progress of an actor is reported by the shard."""


def measure_on_pool(
    context: JobContext, evaluation: Evaluation, needs: Needs, most: int
) -> QualityReport:
    """Draws samples and measures them on actors, reusing the shards that are there.

    Args:
        context: of the job.
        evaluation: what is asked.
        needs: of the job: its part is what an actor occupies.
        most: actors that start at most.

    Raises:
        JobFailed: an item kills its actor whenever it runs alone; the shards of all others stay.
        UserError, DamagedArtifact, FloatingPointError: as `measure`.
    """
    import ray  # noqa: PLC0415

    spec = evaluation.spec
    shards = shards_of(spec.samples, spec.draws, spec.batch_size)
    missing = [shard.number for shard in shards if find_drawn(evaluation, shard) is None]
    if len(missing) < len(shards):
        context.log(f"{len(shards) - len(missing)} of {len(shards)} shards are there already")
    ended = _Ended(context, shards, missing)
    forget_notice(context.work)
    size = min(most, max(1, len(missing)))
    threads = max(1, int(needs.part.cpus))
    handles = start_actors(EvaluationActor, needs.part, size, evaluation, threads)
    describe = partial(_describe, shards)
    try:
        pool = Pool[int](handles, context.job, describe, partial(asked_to_leave, context.work))
        pool.run([REAL, *missing], ended)
        last = pool.there()[:1] or handles[:1]
        for handle in handles:
            if handle not in last:
                ray.kill(handle)
        Pool[int](last, context.job, describe).run([END], ended)
    finally:
        for handle in handles:
            ray.kill(handle)
    assert ended.result is not None
    known = [record.seconds for each in shards if (record := find_drawn(evaluation, each))]
    context.device_s = sum(known) + ended.other_s
    context.engine |= {"precision": spec.precision, "actors": size}
    context.engine |= {"devices": sorted(ended.devices), "torch": torch.__version__}
    return ended.result.deliver(context)


def _describe(shards: list[Shard], item: int) -> str:
    """An item in words, with the numbers of its samples."""
    if item < 0:
        return "the real images" if item == REAL else "the report"
    shard = shards[item]
    last = shard.first + shard.count - 1
    return f"shard {item} (draw {shard.draw + 1}, samples {shard.first} to {last})"


class _Ended:
    """Takes the items that are done, and says how far the job is."""

    def __init__(self, context: JobContext, shards: list[Shard], missing: list[int]) -> None:
        self._context = context
        self._shards = shards
        self._total = sum(shard.count for shard in shards)
        self._done = self._total - sum(shards[number].count for number in missing)
        self.result: Concluded | None = None
        self.other_s = 0.0
        """Time of what is no shard."""
        self.devices: set[str] = set()

    def __call__(self, item: int, made: Any) -> None:
        seconds, device, result = made
        self.devices.add(device)
        if item < 0:
            self.other_s += seconds
            self.result = result
            return
        self._done += self._shards[item].count
        self._context.progress(self._done, self._total)
