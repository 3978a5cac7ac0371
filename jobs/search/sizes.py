"""What a student costs before it is trained: parameters, multiply-adds, time of a step."""

from collections.abc import Callable, Mapping

import torch

from slimctl.jobs.base.artifacts import Handle
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.refs import iter_refs
from slimctl.jobs.base.spec import JobSpec
from slimctl.jobs.base.turns import measure_alone
from slimctl.jobs.search.spec import Limit
from slimctl.models.metrics.cost import build_on_meta, count_macs, count_parameters
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.solvers.spec import EulerSpec
from slimctl.models.spec import ImageShape

SIZES = ("parameters", "macs", "latency_ms")
"""Numbers of a QualityReport that the network alone tells."""
Latency = Callable[[NetworkSpec, ImageShape], float | None]
"""Time of one evaluation of a network at batch 1, ms; None where the device was not quiet."""


def latency_ms(network: NetworkSpec, image: ImageShape, device: str = "cpu") -> float | None:
    """Median time of one evaluation at batch 1 on a device of this machine, ms.

    None where somebody else was there each time: such a number rules out nothing, and the trial's
    own evaluation measures again.
    """
    built = network.build(image).eval().to(device)
    x0 = torch.zeros(1, image.channels, image.size, image.size, device=device)
    label = torch.zeros(1, dtype=torch.int64, device=device) if image.classes else None
    t = torch.zeros(1, device=device)

    def call() -> None:
        built(x0, t, label)

    with torch.no_grad():
        found = measure_alone(call, device)
    return found.latency.median_ms if found.quiet else None


def latency_on(cluster: Cluster) -> Latency:
    """Measures as `evaluate` will: on a GPU where the cluster has any, else on this CPU."""
    if cluster.gpus == 0:
        return latency_ms
    import ray  # noqa: PLC0415

    remote = ray.remote(_on_gpu).options(
        num_cpus=0,
        num_gpus=1,
        scheduling_strategy="DEFAULT",  # a trial's own share has no GPU
    )

    def measure(network: NetworkSpec, image: ImageShape) -> float | None:
        found: float | None = ray.get(remote.remote(network, image))
        return found

    return measure


def _on_gpu(network: NetworkSpec, image: ImageShape) -> float | None:
    return latency_ms(network, image, "cuda" if torch.cuda.is_available() else "cpu")


def sizes_known(
    specs: Mapping[str, JobSpec],
    handles: Mapping[str, Handle],
    limits: Mapping[str, Limit],
    latency: Latency = latency_ms,
) -> dict[str, float]:
    """The limited sizes of a trial, as far as its networks tell them.

    Args:
        specs: jobs of the trial.
        handles: results of the jobs outside that they name.
        limits: `JOB.FIELD` -> limit.
        latency: measures a network where its latency counts.
    """
    found: dict[str, float] = {}
    for name in limits:
        job, _, field = name.rpartition(".")
        behind = _network_behind(specs, job) if field in SIZES else None
        image = _image_behind(specs, behind[0], handles) if behind else None
        if behind is not None and image is not None:
            value = _measured(field, behind[1], image, _evaluations(specs[job]), latency)
            found |= {name: value} if value is not None else {}
    return found


def _network_behind(specs: Mapping[str, JobSpec], name: str) -> tuple[str, NetworkSpec] | None:
    """The job that builds the network which a job measures, and the network's spec."""
    while name in specs:
        spec = specs[name]
        network = getattr(spec, "network", None)
        if isinstance(network, NetworkSpec):
            return name, network
        sources = [ref.job for field, ref in iter_refs(spec) if field in ("model", "start")]
        name = sources[0] if sources else ""
    return None


MODEL_INPUTS = ("start", "pairs", "teacher", "flow", "model")
"""Inputs whose images are those of a network that a job builds; data has classes besides."""


def _image_behind(
    specs: Mapping[str, JobSpec], name: str, handles: Mapping[str, Handle]
) -> ImageShape | None:
    """Shape of the images that a job deals in, with classes where its network takes labels."""
    if name in handles:
        image = getattr(handles[name], "image", None)
        return image if isinstance(image, ImageShape) else None
    if name not in specs:
        return None
    spec = specs[name]
    sources = {field: ref.job for field, ref in iter_refs(spec)}
    order = [field for field in MODEL_INPUTS if field in sources]
    order += [field for field in sources if field not in MODEL_INPUTS]
    found = (_image_behind(specs, sources[field], handles) for field in order)
    image = next((one for one in found if one is not None), None)
    if image is not None and getattr(spec, "conditional", True) is False:
        return image.model_copy(update={"classes": 0})
    return image


def _evaluations(spec: JobSpec) -> int | None:
    """Network evaluations of one sample; None if the solver decides."""
    solver = getattr(spec, "solver", None)
    if solver is None:
        return 1
    return solver.steps if isinstance(solver, EulerSpec) else None


def _measured(
    field: str,
    network: NetworkSpec,
    image: ImageShape,
    evaluations: int | None,
    latency: Latency,
) -> float | None:
    if field == "parameters":
        return count_parameters(build_on_meta(network, image))
    if field == "macs":
        return count_macs(network, image)
    if evaluations is None or (once := latency(network, image)) is None:
        return None
    return evaluations * once


def beyond(sizes: Mapping[str, float], limits: Mapping[str, Limit]) -> str:
    """Which limits a size breaks, in words; "" if none."""
    return ", ".join(
        f"{name} is {value:,.4g}, not {limits[name]}"
        for name, value in sizes.items()
        if limits[name].excess(value) > 0
    )


def distance(sizes: Mapping[str, float], limits: Mapping[str, Limit]) -> float:
    """How far a size is outside the limits, relative to them, in all."""
    total = 0.0
    for name, value in sizes.items():
        limit = limits[name]
        bound = limit.max if limit.max is not None and value > limit.max else limit.min
        total += limit.excess(value) / max(abs(bound or 1.0), 1e-12)
    return total
