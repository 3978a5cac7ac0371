"""Generating a pair set on a pool of Ray actors, each with a device of its own."""

import os
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any

import torch

from slimctl.jobs.base.artifacts import StepPolicy
from slimctl.jobs.base.cluster import NodeSize
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.drain import asked_to_leave, forget_notice
from slimctl.jobs.base.failures import classified
from slimctl.jobs.pairs.pool import Life, Pool, describe_device, start_actors
from slimctl.jobs.pairs.shards import (
    PairRecipe,
    ShardRecord,
    find_shard,
    open_solve,
    shard_name,
    solve_shard,
    write_shard,
)
from slimctl.jobs.storage.flows import later, open_guided
from slimctl.jobs.storage.store import Store
from slimctl.models.compilation import CompilesLater
from slimctl.models.flows.flow import Flow


class PairActor:
    """Makes whole shards of one series, one at a time; the one before is written meanwhile.

    Its calls run in two threads (`IN_FLIGHT`): while one writes, the other may solve, and a third
    shard is not begun before the first is written.
    """

    def __init__(self, store: Store, recipe: PairRecipe, threads: int, shards: int = 1) -> None:
        """Expects to make so many shards."""
        torch.set_num_threads(threads)
        self._store = store
        self._recipe = recipe
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._place = describe_device(self._device)
        self._opened: Flow | None = None
        self._later: CompilesLater | None = None
        self._batches = shards * recipe.shard_size // recipe.batch_size
        self._threads = threads
        self._solving = Lock()

    def ready(self) -> Life:
        """Answers once the flow is loaded; here and not in the constructor, whose errors Ray hides.

        Raises:
            UserError: the weights do not fit the network.
            DamagedArtifact: a file is not what its manifest says.
        """
        with self._solving, classified(""):
            self._flow()
        return Life.here()

    def _flow(self) -> Flow:
        if self._opened is None:
            recipe = self._recipe
            self._opened = open_guided(
                self._store, recipe.flow, recipe.guidance, self._device, recipe.precision
            )
            if not isinstance(solver := self._recipe.solver, StepPolicy):
                self._later = later(self._opened, solver, self._device, self._batches)
        return self._opened

    def make(self, shard: int) -> ShardRecord:
        """Makes one shard and writes it; a shard that is there already is left alone.

        Raises:
            OutOfMemory, BadDevice: its GPU has too little memory, or failed.
        """
        found = find_shard(self._store, self._recipe, shard)
        if found is not None:
            return found
        with self._solving:
            torch.set_num_threads(self._threads)
            flow = self._flow()
            run = open_solve(self._store, self._recipe, flow)
            solved = solve_shard(flow, self._recipe, shard, self._device, run, self._later)
        name = shard_name(self._recipe, shard)
        return write_shard(self._store, name, replace(solved, device=self._place))


def generate(context: JobContext, recipe: PairRecipe, count: int, actors: int) -> list[ShardRecord]:
    """Makes the shards that hold the first `count` pairs of a series, reusing those that exist.

    Raises:
        JobFailed: a shard kills its actor whenever it runs alone; all others are written.
        Preempted: the job has to leave; the shards that were under way are written.
    """
    import ray  # noqa: PLC0415

    total = -(-count // recipe.shard_size)
    records = {shard: find_shard(context.store, recipe, shard) for shard in range(total)}
    missing = [shard for shard, record in records.items() if record is None]
    if missing and total > len(missing):
        context.log(f"{total - len(missing)} of {total} shards are there already")
    if missing:
        forget_notice(context.work)
        size = min(actors, len(missing))
        handles = _start_actors(context, recipe, size, -(-len(missing) // size))
        progress = _Progress(context, records, recipe.shard_size, count)
        try:
            describe = partial(describe_shard, recipe)
            leaving = partial(asked_to_leave, context.work)
            Pool[int](handles, context.job, describe, leaving).run(missing, progress)
        finally:
            for handle in handles:
                ray.kill(handle)
        context.engine |= {
            "actors": size,
            "precision": recipe.precision,
            "torch": torch.__version__,
        }
    done = [record for record in records.values() if record is not None]
    context.device_s = sum(record.seconds for record in done)
    context.engine["devices"] = sorted({record.device for record in done})
    context.engine["tf32"] = any(record.tf32 for record in done)
    context.engine["compiled_shards"] = sum(record.compiled for record in done)
    return done


def describe_shard(recipe: PairRecipe, shard: int) -> str:
    """A shard with the index of its pairs."""
    first = shard * recipe.shard_size
    return f"shard {shard} (pairs {first} to {first + recipe.shard_size - 1})"


def _start_actors(context: JobContext, recipe: PairRecipe, size: int, shards: int) -> list[Any]:
    """So many actors, of which each is to make so many shards."""
    on_gpus = context.cluster.gpus > 0
    part = NodeSize(cpus=0, gpus=1) if on_gpus else NodeSize(cpus=1)
    threads = min(4, os.cpu_count() or 1) if on_gpus else 1
    return start_actors(PairActor, part, size, context.store, recipe, threads, shards)


class _Progress:
    """Keeps each finished shard's record and tells the run."""

    def __init__(
        self,
        context: JobContext,
        records: dict[int, ShardRecord | None],
        shard_size: int,
        count: int,
    ) -> None:
        self._context = context
        self._records = records
        self._shard_size = shard_size
        self._count = count

    def __call__(self, shard: int, record: ShardRecord) -> None:
        self._records[shard] = record
        done = sum(found is not None for found in self._records.values()) * self._shard_size
        nfe = record.nfe_sum / self._shard_size
        self._context.progress(min(done, self._count), self._count, nfe=nfe)
