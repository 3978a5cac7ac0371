"""The measurements behind a quality report."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from jobs.base.artifacts import (
    Dataset,
    FeatureNet,
    Fleet,
    Flow,
    Generator,
    Partition,
    QualityReport,
    SubsetQuality,
)
from jobs.base.context import JobContext
from jobs.evaluation.sampling import Sampler, describe_solver, open_sampler, takes_solver
from jobs.evaluation.sheet import save_sheet
from jobs.evaluation.subsets import real_floor, some_rows, subset_qualities
from jobs.storage.part_images import load_part
from jobs.storage.store import Store
from jobs.storage.tensors import to_float, to_uint8
from jobs.storage.weights import load_weights
from models.metrics.cost import Latency, count_macs, count_parameters, measure_latency
from models.metrics.frechet import GaussianStatistics, frechet_distance
from models.metrics.kernel import kernel_distance
from models.metrics.nearest import memorisation
from models.metrics.precision_recall import precision_recall
from models.metrics.straightness import straightness
from models.networks.classifier.spec import ClassifierSpec
from models.networks.registry import parse_network
from models.routing import RoutedFlow
from models.solvers.spec import SolverSpec

SHEET_SAMPLES = 100
STRAIGHTNESS_SAMPLES = 256
STRAIGHTNESS_STEPS = 16
NEAREST_SAMPLES = 1000
LATENCY_BUDGET_MS = 3000.0
ROUTED_REQUESTS = 1000
FEATURE_BATCH = 1000


class EvaluationSettings(Protocol):
    """What the measurements read of their job's spec."""

    @property
    def seed(self) -> int | None: ...
    @property
    def solver(self) -> SolverSpec | None: ...
    @property
    def samples(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def neighbours(self) -> int: ...


@dataclass(frozen=True)
class Features:
    """A feature network on a device."""

    network: torch.nn.Module
    device: torch.device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of uint8 images (N, C, H, W): float32 (N, D) on the CPU.

        Samples go through 8 bits like the real images, as published FIDs do.
        """
        parts = [
            self.network.features(to_float(part.to(self.device))).cpu()  # type: ignore[operator]
            for part in torch.split(images, FEATURE_BATCH)
        ]
        return torch.cat(parts)


def open_features(store: Store, handle: FeatureNet, device: torch.device) -> Features:
    """The feature network of the store, frozen, on a device."""
    network = ClassifierSpec.model_validate(handle.network).build(handle.image)
    load_weights(network, store, handle)
    return Features(network.to(device).eval().requires_grad_(requires_grad=False), device)


def measure(
    context: JobContext,
    spec: EvaluationSettings,
    model: Flow | Generator | Fleet,
    data: Dataset,
    features: FeatureNet,
    partition: Partition | None = None,
) -> QualityReport:
    """Draws samples and measures them against the data.

    A model of some labels only is measured against the images of these labels.

    Args:
        context: of the job.
        spec: what to draw.
        model: the model.
        data: real images.
        features: feature network of the distances.
        partition: split of the labels to report by; None = the fleet's, if it is one.

    Raises:
        UserError: model and solver do not go together.
        FloatingPointError: the samples are not finite.
    """
    torch.set_num_threads(context.threads)
    device = torch.device(context.device)
    seed = spec.seed or 0
    sampler = open_sampler(context.store, model, spec.solver, device)
    extract = open_features(context.store, features, device)
    conditional = bool(model.label_counts)
    served = _served(model)
    real, real_labels = load_part(context.store, data, served, conditional=conditional)
    images, labels, nfe = _draw(context, sampler, spec, seed)
    save_sheet(to_float(images[:SHEET_SAMPLES]), context.folder / "samples.png")
    real_features, own_features = extract(real), extract(images)
    statistics = GaussianStatistics.from_features(real_features)
    kid = kernel_distance(real_features, own_features, seed=seed)
    same = min(len(real), len(images))
    some_real = real_features[some_rows(len(real), same)]
    manifold = precision_recall(some_real, own_features[:same], spec.neighbours)
    near = memorisation(to_float(images[:NEAREST_SAMPLES]), to_float(real))
    latency = _latency(sampler)
    parts, classes = _subsets(
        (real_features, real_labels), (own_features, labels), model, partition, spec.neighbours
    )
    return QualityReport(
        model=model.id,
        model_type=_type_of(model),
        solver=describe_solver(spec.solver),
        fid=frechet_distance(statistics, GaussianStatistics.from_features(own_features)),
        fid_real=real_floor(statistics, real_features, len(images)),
        kid=kid.value,
        kid_low=kid.low,
        kid_high=kid.high,
        precision=manifold.precision,
        recall=manifold.recall,
        nfe=nfe,
        samples=len(images),
        features=features.id,
        reference=data.id,
        **_costs(model, sampler),
        latency_ms=latency.median_ms,
        latency_p90_ms=latency.p90_ms,
        device=latency.device,
        threads=latency.threads,
        routing_us=_routing_us(sampler),
        straightness=_straightness(sampler, seed) if takes_solver(model) else None,
        nearest_rms=near.median,
        nearest_rms_real=near.real_median,
        parts=parts,
        classes=classes,
    )


def _type_of(model: Flow | Generator | Fleet) -> Literal["Flow", "Generator", "Fleet"]:
    if isinstance(model, Fleet):
        return "Fleet"
    return "Flow" if isinstance(model, Flow) else "Generator"


def _served(model: Flow | Generator | Fleet) -> tuple[int, ...] | None:
    """Labels of a student of a part; None = all."""
    if isinstance(model, Fleet) or model.part is None:
        return None
    return tuple(label for label, count in enumerate(model.label_counts) if count)


def _subsets(
    real: tuple[Tensor, Tensor | None],
    own: tuple[Tensor, Tensor | None],
    model: Flow | Generator | Fleet,
    partition: Partition | None,
    neighbours: int,
) -> tuple[tuple[SubsetQuality, ...], tuple[SubsetQuality, ...]]:
    """Quality by part and by class; nothing where the samples or the images have no labels."""
    (real_features, real_labels), (own_features, own_labels) = real, own
    if real_labels is None or own_labels is None:
        return (), ()
    subsets = partition.subsets if partition else getattr(model, "subsets", ())
    theirs, ours = (real_features, real_labels), (own_features, own_labels)
    classes = [(label,) for label in range(model.image.classes)]
    return (
        subset_qualities(theirs, ours, subsets, neighbours),
        subset_qualities(theirs, ours, classes, neighbours),
    )


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
    macs = count_macs(network, model.image)
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
    context: JobContext, sampler: Sampler, spec: EvaluationSettings, seed: int
) -> tuple[Tensor, Tensor | None, float]:
    """Samples uint8 (N, C, H, W) and labels (N,) on the CPU, and the mean number of evaluations."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    nfe, done = 0, 0
    for batch in sampler.draw(seed, spec.samples, spec.batch_size):
        if not bool(batch.images.isfinite().all()):
            raise FloatingPointError(f"samples {done}.. hold NaN or infinity: weights are broken")
        images.append(to_uint8(batch.images).cpu())
        labels += [] if batch.labels is None else [batch.labels.cpu()]
        nfe += int(batch.nfe.sum())
        done += len(batch.images)
        context.progress(done, spec.samples)
    return torch.cat(images), torch.cat(labels) if labels else None, nfe / done


def _latency(sampler: Sampler) -> Latency:
    """Time of one sample at batch 1, all evaluations."""
    index = torch.zeros(1, dtype=torch.int64, device=sampler.device)
    x0, label = sampler.noise(0, index), sampler.labels(0, index)

    def call() -> None:
        sampler.generate(x0, label)

    first = measure_latency(call, sampler.device, warmup=1, repeats=1).median_ms
    repeats = round(min(50, max(5, LATENCY_BUDGET_MS / max(first, 1e-3))))
    return measure_latency(call, sampler.device, repeats=repeats)


def _straightness(sampler: Sampler, seed: int) -> float:
    """S of the flow on the first 256 noises, per dimension."""
    index = torch.arange(STRAIGHTNESS_SAMPLES, device=sampler.device)
    label = sampler.labels(seed, index)

    def velocity(xt: Tensor, t: Tensor) -> Tensor:
        return sampler.flow.velocity(xt, t, label)

    return straightness(
        velocity,
        sampler.noise(seed, index),
        STRAIGHTNESS_STEPS,
        sampler.flow.t_start,
        STRAIGHTNESS_SAMPLES,
    ).value
