"""The measurements behind a quality report."""

import hashlib
from collections.abc import Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from slimctl.jobs.base.artifacts import (
    Dataset,
    FeatureNet,
    FidProtocol,
    Fleet,
    Flow,
    Generator,
    Partition,
    QualityReport,
    StepGrid,
)
from slimctl.jobs.base.context import Handles, JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.guidance import Guidance
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.solvers import fitted_solver
from slimctl.jobs.base.turns import in_turns, measure_alone
from slimctl.jobs.evaluation.features import Features, open_features
from slimctl.jobs.evaluation.reference import measure_real, nearest_candidates
from slimctl.jobs.evaluation.sampling import describe_solver, open_sampler, save_sample_grid
from slimctl.jobs.evaluation.statistics_file import read_statistics
from slimctl.jobs.evaluation.subsets import FEWEST, by_labels
from slimctl.models.engine import choose_engine, without_engine
from slimctl.models.metrics import take
from slimctl.models.metrics.cost import count_macs, count_parameters, measure_latency
from slimctl.models.metrics.evidence import Evidence
from slimctl.models.metrics.gaussians import Gaussian, RunningStatistics
from slimctl.models.networks.registry import parse_network
from slimctl.models.pixels import to_float, to_uint8
from slimctl.models.routing import RoutedFlow
from slimctl.models.sampling import Sampler
from slimctl.models.solvers.spec import SolverSpec
from slimctl.models.spec import SamplingPrecision

GRID_SAMPLES = 100
NEAREST_SAMPLES = 1000
LATENCY_BUDGET_MS = 150.0
"""Of one try to measure a latency."""
ROUTED_REQUESTS = 1000


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
    def neighbours(self) -> int: ...
    @property
    def manifold_samples(self) -> int: ...
    def guided(self, handles: Handles) -> Guidance | None: ...


@dataclass
class Drawn:
    """What is kept of the samples while they pass by: parts of the first ones of draw 1."""

    images: list[Tensor] = field(default_factory=list)
    """uint8 (n, C, H, W)."""
    features: list[Tensor] = field(default_factory=list)
    """float32 (n, D)."""
    labels: list[Tensor] = field(default_factory=list)
    """int64 (n,); none if unconditional."""
    statistics: list[Gaussian] = field(default_factory=list)
    """Of the features of all samples of each draw."""
    nfe: int = 0
    """Network evaluations of all samples."""

    def rows(self) -> tuple[Tensor, Tensor | None]:
        """Features and labels of the first samples; labels None if unconditional."""
        return torch.cat(self.features), torch.cat(self.labels) if self.labels else None


def measure(
    context: JobContext,
    spec: EvaluationSettings,
    model: Flow | Generator | Fleet,
    data: Dataset,
    features: FeatureNet,
    partition: Partition | None = None,
) -> QualityReport:
    """Draws samples and measures them, by part as the partition or else the fleet has them.

    Raises:
        UserError: model and solver, or features and reference, do not go together.
        FloatingPointError: the samples are not finite.
    """
    torch.set_num_threads(context.threads)
    store, seed, device = context.store, spec.seed or 0, torch.device(context.device)
    reference = _outside_reference(spec, features)
    solver = None if spec.solver is None else fitted_solver(context, spec.solver)
    guidance = spec.guided(context.handles)
    sampler = _sampler_of(context, spec, model, solver, guidance)
    extract = open_features(store, features, device, context.threads)
    real = measure_real(
        store, data, features, extract, spec.samples, spec.manifold_samples, reference
    )
    drawn = _draw(context, sampler, spec, extract, seed)
    images = torch.cat(drawn.images)
    own = drawn.rows()
    save_sample_grid(to_float(images[:GRID_SAMPLES]), context.folder / "samples.png")
    evidence = Evidence(
        real=real.features,
        own=own[0],
        labels=own[1],
        images=images,
        real_images=lambda: nearest_candidates(store, data),
        reference=reference or real.statistics,
        draws=drawn.statistics,
        floor=real.floor,
        nearest_rms_real=real.nearest_rms,
        sampler=sampler,
        neighbours=spec.neighbours,
        seed=seed,
    )
    subsets = partition.subsets if partition else getattr(model, "subsets", ())
    parts, classes = by_labels(store, data, real.features, own, subsets, spec.neighbours)
    _say_what_is_left_out(context, own[1], (subsets, parts), (range(data.image.classes), classes))
    return QualityReport(
        model=model.id,
        model_type=_type_of(model),
        solver=describe_solver(solver) + (f", {guidance}" if guidance else ""),
        **take(evidence),
        protocol=_protocol(spec, data, features),
        fid_real_draws=len(real.floor),
        nfe=drawn.nfe / (spec.samples * spec.draws),
        samples=spec.samples,
        features=features.id,
        reference=data.id,
        **(_costs(model, sampler) | _latency(sampler)),
        parts=parts,
        classes=classes,
    )


def _say_what_is_left_out(
    context: JobContext, labels: Tensor | None, *subsets: tuple[Sized, Sized]
) -> None:
    """Warns of parts, then of classes, of too few images; pairs of what there is and was measured.

    Without labels there are no figures to be missed.
    """
    for name, (asked, measured) in zip(("parts", "classes"), subsets, strict=True):
        if labels is not None and len(measured) < len(asked):
            context.warn(
                f"{len(asked) - len(measured)} of {len(asked)} {name} have no figures of their "
                f"own: fewer than {FEWEST} samples or real images of them are kept; raise samples "
                "and manifold_samples"
            )


def _sampler_of(
    context: JobContext,
    spec: EvaluationSettings,
    model: Flow | Generator | Fleet,
    solver: SolverSpec | None,
    guidance: Guidance | None,
) -> Sampler:
    """Opens the model; what its products are like is noted."""
    device = torch.device(context.device)
    batches = spec.draws * -(-spec.samples // spec.batch_size)
    context.engine |= choose_engine(device, "sampling", spec.precision).model_dump()
    return open_sampler(context.store, model, solver, device, guidance, spec.precision, batches)


def _outside_reference(spec: EvaluationSettings, features: FeatureNet) -> Gaussian | None:
    """The statistics file's Gaussian; None where the data set is the reference."""
    if spec.reference is None:
        return None
    mean, covariance = read_statistics(Path(spec.reference))
    if len(mean) != features.dimensions:
        raise UserError(
            spec.reference,
            f"has statistics of {len(mean)} features, the feature network makes "
            f"{features.dimensions}",
            "use statistics of the same feature network",
        )
    return Gaussian(torch.from_numpy(mean), torch.from_numpy(covariance))


def _protocol(spec: EvaluationSettings, data: Dataset, features: FeatureNet) -> FidProtocol:
    reference = data.id
    if spec.reference is not None:
        with Path(spec.reference).open("rb") as file:
            reference = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    return FidProtocol(
        features=features.id, reference=reference, samples=spec.samples, draws=spec.draws
    )


def _type_of(model: Flow | Generator | Fleet) -> Literal["Flow", "Generator", "Fleet"]:
    if isinstance(model, Fleet):
        return "Fleet"
    return "Flow" if isinstance(model, Flow) else "Generator"


def _costs(model: Flow | Generator | Fleet, sampler: Sampler) -> dict[str, int]:
    """Weights and multiply-adds: of a fleet those of its largest student, and all its weights."""
    if isinstance(model, Fleet):
        networks = [parse_network(each.network) for each in model.members]
        return {
            "parameters": model.parameters,
            "parameters_total": model.parameters_total,
            "macs": max(count_macs(network, model.image) for network in networks),
        }
    network = getattr(sampler.flow, "network", None)
    if network is None:
        return {"parameters": 0, "parameters_total": 0, "macs": 0}
    count = count_parameters(network)
    macs = count_macs(without_engine(network), model.image)
    return {"parameters": count, "parameters_total": count, "macs": macs}


def _routing_us(sampler: Sampler) -> float | None:
    """Median time to find the student of one request; None without a fleet."""
    flow = sampler.flow
    if not isinstance(flow, RoutedFlow):
        return None
    label = torch.zeros(1, dtype=torch.int64)
    repeats = ROUTED_REQUESTS
    return 1e3 * measure_latency(lambda: flow.route(label), "cpu", repeats=repeats).median_ms


def _draw(
    context: JobContext, sampler: Sampler, spec: EvaluationSettings, extract: Features, seed: int
) -> Drawn:
    """Samples of every draw, each taken in and, but for the first ones, forgotten."""
    drawn, done, total = Drawn(), 0, spec.samples * spec.draws
    for draw in range(spec.draws):
        running = RunningStatistics()
        drawing = sampler.draw(seed, spec.samples, spec.batch_size, draw * spec.samples)
        for batch in in_turns(drawing):
            if not bool(batch.images.isfinite().all()):
                raise FloatingPointError(
                    f"samples {done}.. hold NaN or infinity: weights are broken"
                )
            images = to_uint8(batch.images).cpu()
            features = extract(images)
            running.add(features)
            if draw == 0:
                _keep(drawn.images, images, NEAREST_SAMPLES)
                _keep(drawn.features, features, spec.manifold_samples)
                if batch.labels is not None:
                    _keep(drawn.labels, batch.labels.cpu(), spec.manifold_samples)
            drawn.nfe += int(batch.nfe.sum())
            done += len(images)
            context.progress(done, total)
        drawn.statistics.append(running.result())
    context.engine["compiled"] = sampler.later is not None and sampler.later.compiled
    return drawn


def _keep(parts: list[Tensor], rows: Tensor, most: int) -> None:
    """Adds rows to the parts until they are `most` in all; a copy, so that no batch is held."""
    room = most - sum(map(len, parts))
    if room > 0:
        parts.append(rows[:room].clone())


def _latency(sampler: Sampler) -> dict[str, Any]:
    """Time of one sample at batch 1, all evaluations; on what, and whether alone there."""
    index = torch.zeros(1, dtype=torch.int64, device=sampler.device)
    x0, label = sampler.noise(0, index), sampler.labels(0, index)

    def call() -> None:
        sampler.generate(x0, label)

    measured = measure_alone(call, sampler.device, budget_ms=LATENCY_BUDGET_MS)
    found = measured.latency
    return {
        "latency_quiet": measured.quiet,
        "latency_ms": found.median_ms,
        "latency_p90_ms": found.p90_ms,
        "device": found.device,
        "threads": found.threads,
        "routing_us": _routing_us(sampler),
    }
