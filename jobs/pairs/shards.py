"""Making, writing and reading shards of a pair set.

A shard holds `x1` float16 (n, C, H, W), unclipped; noise and labels are functions of (seed, index).
Its record (`.json`) is written after it: a shard without a record does not exist.

Single pairs are read, not mapped: pages of a mapping count as resident memory of the process, and
those of a set that is drawn from at random all become resident in the end. What is read often stays
in the system's cache of files all the same.
"""

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from slimctl.jobs.base.artifacts import Flow, PairSet, ShardFile, StepPolicy
from slimctl.jobs.base.errors import DamagedArtifact
from slimctl.jobs.base.guidance import Guidance
from slimctl.jobs.base.turns import computing
from slimctl.jobs.storage.flows import flow_problem, open_guided, open_policy
from slimctl.jobs.storage.sealed import seal, unseal
from slimctl.jobs.storage.store import Store
from slimctl.models import counter_random
from slimctl.models.counter_random import Stream
from slimctl.models.flows.flow import Flow as RunnableFlow
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.solution import Solution
from slimctl.models.solvers.spec import SolverSpec
from slimctl.models.spec import ImageShape, SamplingPrecision, Spec
from slimctl.models.steps.flow_walk import solve_with_policy


@dataclass(frozen=True)
class PairRecipe:
    """Decides every pair of an endless series."""

    series: str
    """Id of the series, `<kind>-<key>` without a count."""
    flow: Flow
    solver: SolverSpec | StepPolicy
    seed: int
    shard_size: int
    batch_size: int
    """Pairs solved at once; divides shard_size."""
    precision: SamplingPrecision = "float32"
    guidance: Guidance | None = None
    """What the flow is guided by."""


def pair_noise(seed: int, index: Tensor, image: ImageShape) -> Tensor:
    """x0 of the pairs `index`: float32 (B, C, H, W), standard normal."""
    shape = (image.channels, image.size, image.size)
    return counter_random.normal(seed, Stream.PAIR_NOISE, index, shape)


def pair_labels(seed: int, index: Tensor, label_counts: Sequence[int]) -> Tensor | None:
    """Labels of the pairs `index` from the marginal: int64 (B,); None if there are no classes."""
    if not label_counts:
        return None
    return counter_random.categorical(seed, Stream.PAIR_LABEL, index, label_counts)


Solve: TypeAlias = Callable[[Tensor, Tensor | None], Solution]
"""(x0, label) -> where the flow takes them."""


class ShardRecord(Spec):
    """What is known of a finished shard."""

    file: ShardFile
    nfe_sum: float
    """Network evaluations of all its pairs together."""
    seconds: float
    """Time that its device took."""
    device: str


def shard_name(recipe: PairRecipe, shard: int) -> str:
    """Path of a shard inside the storage, without its ending."""
    return f"pairs/{recipe.series}/shard-{shard:06d}"


def find_shard(store: Store, recipe: PairRecipe, shard: int) -> ShardRecord | None:
    """The record of a finished shard whose file has the recorded size; None if there is none."""
    name = shard_name(recipe, shard)
    try:
        record = ShardRecord.model_validate(unseal(store.blobs.read(f"{name}.json")))
    except (FileNotFoundError, ValueError):
        return None
    intact = record.file.path == f"{name}.safetensors" and (
        store.blobs.size(record.file.path) == record.file.size
    )
    return record if intact else None


@dataclass(frozen=True)
class Solved:
    """The pairs of one shard, not yet written."""

    x1: Tensor
    """float16 (shard_size, C, H, W) on the CPU."""
    nfe_sum: float
    seconds: float
    device: str


def open_solve(store: Store, recipe: PairRecipe, flow: RunnableFlow) -> Solve:
    """The way a recipe solves its flow: (x0, label) -> solution.

    Raises:
        UserError: a policy that was not trained on a flow.
        DamagedArtifact: its file is not what its manifest says.
    """
    if isinstance(recipe.solver, StepPolicy):
        problem, choose = flow_problem(recipe.solver), open_policy(store, recipe.solver)
        return partial(solve_with_policy, problem, choose, flow)
    return partial(solve, recipe.solver, flow)


@torch.no_grad()
def solve_shard(
    flow: RunnableFlow, recipe: PairRecipe, shard: int, device: torch.device, run: Solve
) -> Solved:
    """Solves the pairs of one shard; `run` is what `open_solve` gave."""
    started = time.perf_counter()
    first = shard * recipe.shard_size
    images, nfe = [], 0.0
    for start in range(first, first + recipe.shard_size, recipe.batch_size):
        index = torch.arange(start, start + recipe.batch_size, device=device)
        x0 = pair_noise(recipe.seed, index, flow.image)
        label = pair_labels(recipe.seed, index, recipe.flow.label_counts)
        with computing():
            solution = run(x0, label)
            images.append(solution.x1.to(torch.float16).cpu())
        nfe += float(solution.nfe.sum())
    seconds = time.perf_counter() - started
    return Solved(torch.cat(images), nfe, seconds, str(device))


def write_shard(store: Store, name: str, solved: "Solved") -> ShardRecord:
    """Writes a shard under `name`, then its record."""
    data = save({"x1": solved.x1.contiguous()})
    store.blobs.write(f"{name}.safetensors", data)
    file = ShardFile(
        path=f"{name}.safetensors", size=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    record = ShardRecord(
        file=file, nfe_sum=solved.nfe_sum, seconds=solved.seconds, device=solved.device
    )
    store.blobs.write(f"{name}.json", seal(record.model_dump()))
    return record


def read_pairs(store: Store, pairs: PairSet) -> Tensor:
    """x1 of all pairs of a set, float16 (count, C, H, W), in the order of the index.

    Raises:
        DamagedArtifact: a shard is not what the set says.
    """
    return _read(store, pairs, "x1")


def read_noise(store: Store, pairs: PairSet) -> Tensor:
    """Stored x0, float32 (count, C, H, W).

    Raises:
        DamagedArtifact: a shard is not what the set says.
    """
    return _read(store, pairs, "x0")


def read_labels(store: Store, pairs: PairSet) -> Tensor | None:
    """Stored labels, int64 (count,); None if there are none.

    Raises:
        DamagedArtifact: a shard is not what the set says.
    """
    return _read(store, pairs, "label") if pairs.label_counts else None


def _read(store: Store, pairs: PairSet, name: str) -> Tensor:
    """One kind of tensor of all shards, without reading the others or holding two copies."""
    made: Tensor | None = None
    for number, path in enumerate(store.shards(pairs.shards)):
        with safe_open(path, "pt") as file:
            part = file.get_tensor(name)
        if made is None:
            made = torch.empty((pairs.count, *part.shape[1:]), dtype=part.dtype)
        rows = made[number * pairs.shard_size : (number + 1) * pairs.shard_size]
        rows.copy_(part[: len(rows)])
    assert made is not None, "a pair set has a shard"
    return made


_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, little-endian."""
_TYPES = {"x1": ("F16", torch.float16), "x0": ("F32", torch.float32)}
"""Type of the numbers of a tensor of a shard, as its header and as torch call it."""


class ShardRows:
    """Random access to the images of a pair set, or to its noise where that is stored.

    Raises:
        DamagedArtifact: a shard is not what the set says.
    """

    def __init__(self, store: Store, pairs: PairSet, tensor: Literal["x0", "x1"] = "x1") -> None:
        self._shape = (pairs.image.channels, pairs.image.size, pairs.image.size)
        self._dtype = _TYPES[tensor][1]
        numbers = pairs.image.channels * pairs.image.size**2
        self._row_bytes = self._dtype.itemsize * numbers
        self._shard_size = pairs.shard_size
        self._paths = store.shards(pairs.shards)
        self._starts = [_start_of(tensor, path, self._shape) for path in self._paths]

    def read(self, index: Tensor) -> Tensor:
        """The tensor's rows `index` (int64 on the CPU): (B, C, H, W), x1 float16, x0 float32."""
        if len(index) == 0:
            return torch.empty((0, *self._shape), dtype=self._dtype)
        rows = bytearray(len(index) * self._row_bytes)
        view = memoryview(rows)
        for shard, places in self._by_shard(index):
            file = os.open(self._paths[shard], os.O_RDONLY)
            try:
                for place, row in places:
                    part = view[place * self._row_bytes : (place + 1) * self._row_bytes]
                    at = self._starts[shard] + row * self._row_bytes
                    if os.preadv(file, [part], at) != self._row_bytes:
                        raise DamagedArtifact(str(self._paths[shard]), f"ends before row {row}")
            finally:
                os.close(file)
        return torch.frombuffer(rows, dtype=self._dtype).view(-1, *self._shape)

    def _by_shard(self, index: Tensor) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Each shard asked for, with (place in the batch, row of the shard)."""
        wanted: dict[int, list[tuple[int, int]]] = {}
        for place, number in enumerate(index.tolist()):
            shard, row = divmod(number, self._shard_size)
            wanted.setdefault(shard, []).append((place, row))
        yield from sorted(wanted.items())


def _start_of(tensor: str, path: Path, shape: tuple[int, ...]) -> int:
    """Where the numbers of a tensor begin in a shard, bytes."""
    code, dtype = _TYPES[tensor]
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            entry = json.loads(file.read(length))[tensor]
        fits = entry["dtype"] == code and tuple(entry["shape"][1:]) == shape
        start = _LENGTH_BYTES + length + int(entry["data_offsets"][0])
    except (ValueError, KeyError, TypeError, MemoryError) as error:
        raise DamagedArtifact(str(path), "has no header of a shard") from error
    if not fits:
        raise DamagedArtifact(str(path), f"holds other images than {dtype} {shape}")
    return start


LARGEST_DIFFERENCE = 0.02
"""Between two devices or batch sizes, in [-1, 1] pixels: float16 rounds by 0.001 at 2."""


@torch.no_grad()
def recheck_pairs(store: Store, pairs: PairSet, recipe: PairRecipe, count: int) -> list[str]:
    """Solves a few random pairs again; returns what differs, one sentence each."""
    chosen = sorted(random.SystemRandom().sample(range(pairs.count), min(count, pairs.count)))
    index = torch.tensor(chosen)
    flow = open_guided(store, recipe.flow, recipe.guidance, torch.device("cpu"))
    run = open_solve(store, recipe, flow)
    solution = run(
        pair_noise(recipe.seed, index, flow.image),
        pair_labels(recipe.seed, index, recipe.flow.label_counts),
    )
    stored = ShardRows(store, pairs).read(index).float()
    differences = (solution.x1.cpu() - stored).abs().amax(dim=(1, 2, 3))
    return [
        f"pair {pair} made again differs by {difference:.3g} from the one stored"
        for pair, difference in zip(chosen, differences.tolist(), strict=True)
        if not difference <= LARGEST_DIFFERENCE
    ]
