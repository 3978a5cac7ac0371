"""What a student costs before it is trained: parameters, multiply-adds, time of a step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from slimctl.jobs.base.artifacts import Flow, Handle
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.base.networks import network_of
from slimctl.jobs.base.refs import iter_refs
from slimctl.jobs.base.spec import JobSpec
from slimctl.jobs.base.turns import measure_alone
from slimctl.jobs.search.spec import SIZES, Limit, SearchSpec
from slimctl.jobs.storage.store import Store
from slimctl.models.metrics.cost import build_on_meta, count_macs, count_parameters
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.solvers.spec import EulerSpec
from slimctl.models.spec import ImageShape

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


def look(
    storage: str,
    search: SearchSpec,
    outside: Mapping[str, str],
    candidates: Sequence[Mapping[str, Any]],
) -> list[tuple[str, float]]:
    """For each candidate the limits that its sizes break, in words, and how far it is outside.

    Args:
        storage: where the results of the jobs outside are.
        search: whose limits they are.
        outside: name of a job outside -> artifact id.
        candidates: values of the variables; "" for those that do not go together, as their trial
            will say.
    """
    store, limits = Store(storage), search.subject_to
    facts = {name: _known(store.load_any(one)) for name, one in outside.items()}
    found = []
    for values in candidates:
        try:
            known = sizes_known(search.trial(values), facts, limits)
        except (UserError, ValueError):
            known = {}
        found.append((beyond(known, limits), distance(known, limits)))
    return found


def _known(handle: Handle) -> Facts:
    """What a result says, and of a flow its network, which a student may be a slimmer copy of."""
    facts = handle.facts()
    if isinstance(handle, Flow) and handle.network is not None:
        return replace(facts, network=network_of(handle))
    return facts


def latency_here(network: NetworkSpec, image: ImageShape) -> float | None:
    """Measures as `evaluate` will: on the GPU of this process where it has one."""
    return latency_ms(network, image, "cuda" if torch.cuda.is_available() else "cpu")


def sizes_known(
    specs: Mapping[str, JobSpec],
    outside: Mapping[str, Facts],
    limits: Mapping[str, Limit],
    latency: Latency = latency_here,
) -> dict[str, float]:
    """The limited sizes of a trial, as far as its networks tell them.

    Args:
        specs: jobs of the trial.
        outside: facts of the jobs outside that they name.
        limits: `JOB.FIELD` -> limit.
        latency: measures a network where its latency counts.

    Raises:
        FieldError: the jobs do not go together.
    """
    found: dict[str, float] = {}
    facts = dict(outside)
    for name in limits:
        job, _, field = name.rpartition(".")
        if field in SIZES and job in specs:
            model = next((ref.job for at, ref in iter_refs(specs[job]) if at == "model"), job)
            known = _facts_of(model, specs, facts)
            if known.network is not None and known.image is not None:
                evaluations = _evaluations(specs[job])
                value = _measured(field, known.network, known.image, evaluations, latency)
                found |= {name: value} if value is not None else {}
    return found


def _facts_of(name: str, specs: Mapping[str, JobSpec], facts: dict[str, Facts]) -> Facts:
    """What is known of a job's result; `facts` keeps it."""
    if name not in facts:
        facts[name] = Facts()  # a job that needs itself is refused elsewhere
        if name in specs:
            inputs = {at: _facts_of(ref.job, specs, facts) for at, ref in iter_refs(specs[name])}
            facts[name] = specs[name].expect(inputs)
    return facts[name]


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
