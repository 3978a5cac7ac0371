"""Making, writing and reading shards of a pair set.

A shard holds `x1` float16 (n, C, H, W), unclipped; noise and labels are functions of (seed, index).
Its record (`.json`) is written after it: a shard without a record does not exist.
"""

import hashlib
import random
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from slimctl.jobs.base.artifacts import Flow, PairSet, ShardFile, StepPolicy
from slimctl.jobs.base.guidance import Guidance
from slimctl.jobs.base.turns import computing
from slimctl.jobs.storage.flows import flow_problem, open_guided, open_policy
from slimctl.jobs.storage.rows import FileRows
from slimctl.jobs.storage.sealed import seal, unseal
from slimctl.jobs.storage.store import Store
from slimctl.models import counter_random
from slimctl.models.compilation import CompilesLater
from slimctl.models.conditions import Among, ordered_labels
from slimctl.models.counter_random import Stream
from slimctl.models.engine import choose_engine
from slimctl.models.flows.flow import Flow as RunnableFlow
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.fit_grid import end_unit
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


def pair_labels(seed: int, index: Tensor, of: Flow | PairSet) -> Tensor | None:
    """Labels of the pairs `index`: int64 (B,); None if there are none.

    Classes from the marginal; of prompts each once before any comes again.
    """
    marginal = Among(of.prompts.count) if of.prompts else of.label_counts
    return ordered_labels(marginal, seed, Stream.PAIR_LABEL, index)


Solve: TypeAlias = Callable[[Tensor, Tensor | None], Solution]
"""(x0, label) -> where the flow takes them."""


class ShardRecord(Spec):
    """What is known of a finished shard."""

    file: ShardFile
    nfe_sum: float
    """Network evaluations of all that is in it."""
    seconds: float
    """Time that its device took."""
    device: str
    tf32: bool = False
    """Whether float32 products were TF32's."""
    compiled: bool = False
    """Whether the network was compiled, at least in the end."""


def shard_name(recipe: PairRecipe, shard: int) -> str:
    """Path of a shard inside the storage, without its ending."""
    return f"pairs/{recipe.series}/shard-{shard:06d}"


def find_shard(store: Store, recipe: PairRecipe, shard: int) -> ShardRecord | None:
    """The record of a finished shard whose file has the recorded size; None if there is none."""
    return find_record(store, shard_name(recipe, shard))


def find_record(store: Store, name: str) -> ShardRecord | None:
    """The record of the shard of that name, as `find_shard`."""
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
    tf32: bool = False
    compiled: bool = False


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


@torch.inference_mode()
def solve_shard(
    flow: RunnableFlow,
    recipe: PairRecipe,
    shard: int,
    device: torch.device,
    run: Solve,
    later: CompilesLater | None = None,
) -> Solved:
    """Solves the pairs of one shard; `run` is what `open_solve` gave, `later` may compile."""
    started = time.perf_counter()
    first = shard * recipe.shard_size
    images, nfe = [], 0.0
    for start in range(first, first + recipe.shard_size, recipe.batch_size):
        index = torch.arange(start, start + recipe.batch_size, device=device)
        x0 = pair_noise(recipe.seed, index, flow.image)
        label = pair_labels(recipe.seed, index, recipe.flow)
        with computing(), later.batch() if later else nullcontext():
            solution = run(x0, label)
            images.append(solution.x1.to(torch.float16).cpu())
        nfe += float(solution.nfe.sum())
    seconds = time.perf_counter() - started
    tf32 = choose_engine(device, "sampling", recipe.precision).tf32
    compiled = later is not None and later.compiled
    return Solved(torch.cat(images), nfe, seconds, str(device), tf32, compiled)


def write_shard(store: Store, name: str, solved: Solved) -> ShardRecord:
    """Writes a shard under `name`, then its record."""
    return write_tensors(
        store, name, {"x1": solved.x1}, solved.nfe_sum, solved.seconds, solved.device,
        tf32=solved.tf32, compiled=solved.compiled,
    )  # fmt: skip


def write_tensors(
    store: Store,
    name: str,
    tensors: Mapping[str, Tensor],
    nfe_sum: float,
    seconds: float,
    device: str,
    *,
    tf32: bool = False,
    compiled: bool = False,
) -> ShardRecord:
    """Writes any shard under `name`, then its record, whose fields are the others."""
    data = save({key: tensor.contiguous() for key, tensor in tensors.items()})
    store.blobs.write(f"{name}.safetensors", data)
    file = ShardFile(
        path=f"{name}.safetensors", size=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    record = ShardRecord(
        file=file, nfe_sum=nfe_sum, seconds=seconds, device=device, tf32=tf32, compiled=compiled
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


_TYPES = {"x1": torch.float16, "x0": torch.float32}


def shard_rows(store: Store, pairs: PairSet, tensor: Literal["x0", "x1"] = "x1") -> FileRows:
    """Random access to the images of a pair set, or to its noise where that is stored.

    Raises:
        DamagedArtifact: a shard is not what the set says.
    """
    shape = (pairs.image.channels, pairs.image.size, pairs.image.size)
    paths = store.shards(pairs.shards)
    return FileRows(paths, pairs.shard_size, tensor, _TYPES[tensor], shape)


LARGEST_DIFFERENCE = 0.02
"""Between two devices or batch sizes, in [-1, 1] pixels: float16 rounds by 0.001 at 2. Of latents
relative to their root mean square."""


@torch.no_grad()
def recheck_pairs(store: Store, pairs: PairSet, recipe: PairRecipe, count: int) -> list[str]:
    """Solves a few random pairs again; returns what differs, one sentence each."""
    chosen = sorted(random.SystemRandom().sample(range(pairs.count), min(count, pairs.count)))
    index = torch.tensor(chosen)
    flow = open_guided(store, recipe.flow, recipe.guidance, torch.device("cpu"))
    run = open_solve(store, recipe, flow)
    solution = run(
        pair_noise(recipe.seed, index, flow.image),
        pair_labels(recipe.seed, index, recipe.flow),
    )
    stored = shard_rows(store, pairs).read(index).float()
    unit = end_unit(stored, relative=pairs.autoencoder is not None)
    differences = (solution.x1.cpu() - stored).abs().amax(dim=(1, 2, 3)) / unit
    return [
        f"pair {pair} made again differs by {difference:.3g} from the one stored"
        for pair, difference in zip(chosen, differences.tolist(), strict=True)
        if not difference <= LARGEST_DIFFERENCE
    ]
