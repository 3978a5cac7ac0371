"""Stores, artifacts and jobs in this process: no Ray, one thread, the CPU."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import FLOW_PROBLEM, NETWORK, put, save_dit, step_policy
from torch import nn

from slimctl.jobs.base import turns
from slimctl.jobs.base.artifacts import Dataset, Flow, Generator, Handle, PairSet
from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.context import JobContext, Reporter
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.keys import artifact_id, job_key
from slimctl.jobs.base.refs import iter_refs
from slimctl.jobs.base.registry import kind_of
from slimctl.jobs.base.spec import JobSpec
from slimctl.jobs.execution import JobOutcome, JobRequest, execute
from slimctl.jobs.pairs.shards import (
    PairRecipe,
    find_shard,
    open_solve,
    shard_name,
    solve_shard,
    write_shard,
)
from slimctl.jobs.storage.flows import open_guided
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import save_weights
from slimctl.jobs.training import checkpoint
from slimctl.jobs.training.objective import Part, Share
from slimctl.models.counter_random import GENERATOR_VERSION
from slimctl.models.networks.registry import parse_network
from slimctl.models.perceptual.cost import VGG_DEPTHS as DEPTHS
from slimctl.models.perceptual.cost import VGG_WIDTHS as WIDTHS
from slimctl.models.solvers.spec import EulerSpec, SolverSpec
from slimctl.models.spec import ImageShape

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _quiet_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """One thread, no GPU, and a checksum cache that nobody else reads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(turns, "TRYING_S", 0.0)  # other tests compute beside this one
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty local store."""
    return Store(str(tmp_path / "store"))


@pytest.fixture
def commit(store: Store) -> Callable[..., Handle]:
    """`commit(handle, id, name=tensors)` puts a handle and its safetensors files into the store."""

    def commit(handle: Handle, artifact: str, **files: Mapping[str, torch.Tensor]) -> Handle:
        return put(store, artifact, handle, {f"{name}.safetensors": x for name, x in files.items()})

    return commit


@pytest.fixture
def written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are written before the next step, so that every step can have one."""

    class AtOnce:
        def __init__(self, target: Callable[..., None], args: tuple[Any, ...], **_: Any) -> None:
            self.start = lambda: target(*args)

    monkeypatch.setattr(checkpoint, "Thread", AtOnce)


@pytest.fixture
def make_dataset(commit: Callable[..., Handle]) -> Callable[..., Dataset]:
    """Random images in the store, with labels 0, 1, ... in turn if there are classes."""

    def make(
        count: int = 12, size: int = 4, channels: int = 1, classes: int = 0, flip: bool = True
    ) -> Dataset:
        generator = torch.Generator().manual_seed(count)
        shape = (count, size, size, channels)
        images = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
        tensors = {"images": images}
        counts: tuple[int, ...] = ()
        if classes:
            tensors["labels"] = torch.arange(count) % classes
            counts = tuple(torch.bincount(tensors["labels"], minlength=classes).tolist())
        handle = Dataset(
            image=ImageShape(channels=channels, size=size, classes=classes),
            count=count,
            label_counts=counts,
            flip_valid=flip,
        )
        name = f"load_dataset-{count}x{size}x{channels}c{classes}{'f' if flip else ''}"
        return commit(handle, name, data=tensors)

    return make


@pytest.fixture
def make_analytic(commit: Callable[..., Handle]) -> Callable[..., Flow]:
    """The closed-form flow of a data set."""

    def make(data: Dataset, conditional: bool = False) -> Flow:
        classes = data.image.classes if conditional else 0
        handle = Flow(
            source="data",
            image=data.image.model_copy(update={"classes": classes}),
            label_counts=data.label_counts if conditional else (),
            flip_valid=data.flip_valid,
            dataset=data,
        )
        return commit(handle, f"analytic_flow-{data.id}{classes}")

    return make


@pytest.fixture
def make_model(commit: Callable[..., Handle], tmp_path: Path) -> Callable[..., Any]:
    """A flow or generator whose network has random weights."""

    def make(
        cls: type[Flow | Generator] = Flow,
        size: int = 4,
        label_counts: tuple[int, ...] = (),
        seed: int = 0,
        channels_of_image: int = 1,
        **changes: Any,
    ) -> Any:
        image = ImageShape(channels=channels_of_image, size=size, classes=len(label_counts))
        torch.manual_seed(seed)
        spec = parse_network({**NETWORK, **changes})
        network = spec.build(image)
        with torch.no_grad():  # the published initialisation makes the output nearly 0
            for weight in network.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        path = tmp_path / "weights.safetensors"
        save_weights(network.state_dict(), path)
        handle = cls(
            **({"source": "network"} if cls is Flow else {}),
            image=image,
            network=spec.model_dump(mode="json"),
            label_counts=label_counts,
            parameters=sum(weight.numel() for weight in network.parameters()),
        )
        name = f"{cls.__name__.lower()}-{size}x{len(label_counts)}s{seed}"
        return commit(handle, name, weights=network.state_dict())

    return make


def generate_here(store: Store, recipe: PairRecipe, count: int) -> list[Any]:
    """The pool's work in this process: shards that are there are left alone."""
    records = []
    for shard in range(-(-count // recipe.shard_size)):
        found = find_shard(store, recipe, shard)
        if found is None:
            flow = open_guided(store, recipe.flow, recipe.guidance, CPU)
            run = open_solve(store, recipe, flow)
            solved = solve_shard(flow, recipe, shard, CPU, run)
            found = write_shard(store, shard_name(recipe, shard), solved)
        records.append(found)
    return records


@pytest.fixture
def latent_teacher(run_job: Callable[..., Any], tmp_path: Path) -> Flow:
    """A flow of 5 classes of latents 4 x 8 x 8, which decode to 3 x 16 x 16 pixels."""
    diffusers = pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
    from slimctl.jobs.kinds.import_teacher import ImportTeacher

    save_dit(diffusers, tmp_path / "dit")
    teacher: Flow = run_job(ImportTeacher(path=str(tmp_path / "dit")))
    return teacher


@pytest.fixture
def make_pairs(store: Store, commit: Callable[..., Handle]) -> Callable[..., PairSet]:
    """Pairs of a flow, in shards of 4."""

    def make(
        flow: Flow, count: int = 12, seed: int = 3, solver: SolverSpec | None = None
    ) -> PairSet:
        recipe = PairRecipe(
            f"generate_pairs-{flow.id}-{seed}", flow, solver or EulerSpec(steps=4), seed, 4, 2
        )
        records = generate_here(store, recipe, count)
        handle = PairSet(
            image=flow.image,
            count=count,
            shard_size=4,
            seed=seed,
            generator_version=GENERATOR_VERSION,
            nfe=4.0,
            label_counts=flow.label_counts,
            flip_valid=flow.flip_valid,
            shards=tuple(record.file for record in records),
        )
        return commit(handle, f"{recipe.series}-{count}")

    return make


@dataclass
class Recorder(Reporter):
    """Keeps what jobs say."""

    events: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def send(self, job: str, event: str, **details: Any) -> None:
        self.events.append((job, event, details))

    def said(self, event: str) -> list[dict[str, Any]]:
        return [details for _, name, details in self.events if name == event]


@pytest.fixture
def recorder() -> Recorder:
    """A reporter whose `said(event)` lists the details of what was sent."""
    return Recorder()


@pytest.fixture
def make_context(store: Store, recorder: Recorder, tmp_path: Path) -> Callable[..., JobContext]:
    """`make_context("distill-1")`: what a job sees on a machine of one CPU."""

    def make(artifact: str, job: str = "it", **inputs: Handle) -> JobContext:
        return JobContext(job, artifact, store, inputs, tmp_path, Cluster(1), reporter=recorder)

    return make


@pytest.fixture
def attempt(
    store: Store, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., JobOutcome]:
    """`attempt(spec, data=handle)` executes a job in this process and returns how it ended."""
    from slimctl.jobs.pairs import generate
    from slimctl.jobs.steps import train
    from slimctl.jobs.training import ray_train

    def fit(task: Any, needs: Needs, *_: Any) -> None:
        assert needs.parts == 1
        ray_train.train_worker(replace(task, threads=1))

    def pool(context: Any, recipe: PairRecipe, count: int, actors: int) -> list[Any]:
        assert actors >= 1
        return generate_here(context.store, recipe, count)

    def seeds(context: Any, task: Any, needs: Needs) -> list[Any]:
        assert needs.parts >= 1
        return [train.train_seed(task, number) for number in range(task.spec.training_seeds)]

    monkeypatch.setattr(train, "train_policies", seeds)
    monkeypatch.setattr(ray_train, "_fit", fit)
    monkeypatch.setattr(generate, "generate", pool)

    def run(
        spec: JobSpec, artifact: str | None = None, cpus: int = 1, **inputs: Handle
    ) -> JobOutcome:
        jobs = {ref.job: inputs[name].id for name, ref in iter_refs(spec)}
        request = JobRequest(
            job="it",
            kind=kind_of(spec),
            fields=spec.model_dump(mode="json"),
            artifact_id=artifact or artifact_id(spec, job_key(spec, jobs)),
            inputs=jobs,
            storage=store.uri,
            cluster=Cluster(cpus=cpus),
            reporter=recorder,
        )
        return execute(request)

    return run


@pytest.fixture
def run_job(attempt: Callable[..., JobOutcome], store: Store) -> Callable[..., Any]:
    """`run_job(spec, data=handle)` executes a job and returns its handle."""

    def run(spec: JobSpec, **inputs: Handle) -> Handle:
        outcome = attempt(spec, **inputs)
        assert outcome.failure is None, f"{outcome.what}\n{outcome.trace}"
        return store.load_any(outcome.artifact_id)

    return run


@pytest.fixture
def refused() -> Callable[..., FieldError]:
    """`refused(spec, data=Facts(...))` is the error with which a job refuses its inputs."""

    def check(spec: JobSpec, **inputs: Facts | None) -> FieldError:
        with pytest.raises(FieldError) as error:
            spec.expect({name: facts or Facts() for name, facts in inputs.items()})
        assert error.value.what
        return error.value

    return check


@pytest.fixture
def flow_policy(
    run_job: Callable[..., Any],
    make_dataset: Callable[..., Dataset],
    make_analytic: Callable[..., Flow],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Handle, Flow, Dataset]:
    """A step policy trained for a moment on a closed form, with its flow and data."""
    from slimctl.jobs.steps import episodes

    monkeypatch.setattr(episodes, "FLOW_VALIDATION", 4)
    data = make_dataset(count=6, classes=2)
    flow = make_analytic(data, conditional=True)
    asked = step_policy(problem=FLOW_PROBLEM, flow="flow", training_seeds=1)
    return run_job(asked, flow=flow), flow, data


@pytest.fixture
def make_onnx(tmp_path: Path) -> Callable[..., Path]:
    """`make_onnx(output="mean")` writes a network; by default the mean and maximum of each channel.

    onnx 1.23's helper is all that is needed: no export from torch.
    """
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    def make(
        shape: tuple[Any, ...] = ("b", 1, 4, 4),
        nodes: list[Any] | None = None,
        out: tuple[Any, ...] | None = ("b", "d"),
        kind: int = TensorProto.FLOAT,
        extra_input: bool = False,
        name: str = "net.onnx",
    ) -> Path:
        axes = numpy_helper.from_array(np.array([2, 3]), "axes")
        if nodes is None:
            nodes = [
                helper.make_node("ReduceMean", ["images", "axes"], ["mean"], keepdims=0),
                helper.make_node("ReduceMax", ["images", "axes"], ["most"], keepdims=0),
                helper.make_node("Concat", ["mean", "most"], ["features"], axis=1),
            ]
        inputs = [helper.make_tensor_value_info("images", kind, list(shape))]
        if extra_input:
            inputs.append(helper.make_tensor_value_info("more", kind, [1]))
        made = helper.make_tensor_value_info("features", kind, None if out is None else list(out))
        graph = helper.make_graph(nodes, "net", inputs, [made], [axes])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        path = tmp_path / name
        onnx.save(model, path)
        return path

    return make


@pytest.fixture(scope="session")
def lpips_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random weights in the two published formats."""
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    vgg, number, inputs = {}, 0, 3
    for width, depth in zip(WIDTHS, DEPTHS, strict=True):
        for _ in range(depth):
            scale = (2 / (9 * inputs)) ** 0.5
            vgg[f"features.{number}.weight"] = torch.randn(width, inputs, 3, 3) * scale
            vgg[f"features.{number}.bias"] = torch.zeros(width)
            number, inputs = number + 2, width
        number += 1
    linear = {f"lin{n}.model.1.weight": torch.rand(1, c, 1, 1) for n, c in enumerate(WIDTHS)}
    torch.save(vgg, folder / "vgg16.pth")
    torch.save(linear, folder / "vgg.pth")
    return {"weights": str(folder / "vgg16.pth"), "linear": str(folder / "vgg.pth")}


BATCH = 8


class Student(nn.Module):
    """A small network that follows labels and remembers how it was called."""

    def __init__(self, classes=0):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.classes = nn.Embedding(classes, 1) if classes else None
        self.calls = []

    def forward(self, xt, t, label):
        self.calls.append((xt.detach(), t, label))
        out = self.conv(xt) * (1 + t.view(-1, 1, 1, 1))
        if self.classes is not None:
            out = out + self.classes(label).view(-1, 1, 1, 1)
        return out


@pytest.fixture
def make_student():
    """A network with random weights, given labels if there are classes."""

    def make(classes=0, seed=0):
        torch.manual_seed(seed)
        return Student(classes)

    return make


@pytest.fixture
def share():
    """`share(rank, workers)` of a batch of 8."""

    def make(rank=0, workers=1):
        size = BATCH // workers
        return Share(rank * size, size, BATCH, torch.device("cpu"))

    return make


@pytest.fixture
def assert_parts_add_up():
    """The gradient of a loss is the sum of those of 2, 3 and 8 parts, and so is the loss."""

    def check(loss, weights):
        whole = loss(Part())
        wanted = torch.autograd.grad(whole, weights)
        for of in (2, 3, BATCH):
            parts = [loss(Part(number, of)) for number in range(of)]
            torch.testing.assert_close(sum(parts), whole, rtol=1e-6, atol=1e-7)
            grads = [torch.autograd.grad(each, weights) for each in parts]
            for total, *found in zip(wanted, *grads, strict=True):
                torch.testing.assert_close(sum(found), total, rtol=1e-5, atol=1e-6)

    return check


@pytest.fixture
def gradient(share):
    """Mean over all workers of the gradient of an objective, as Ray Train's workers take it."""

    def mean(objective, network, step, workers):
        parts = []
        for rank in range(workers):
            worker = copy.deepcopy(objective)
            worker.prepare(share(rank, workers))
            network.zero_grad()
            worker.loss(network, step).backward()
            parts.append([weight.grad.clone() for weight in network.parameters()])
        return [torch.stack(grads).mean(0) for grads in zip(*parts, strict=True)]

    return mean
