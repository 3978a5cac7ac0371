"""The measurements behind a quality report."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from jobs.base.artifacts import Dataset, FeatureNet, Flow, Generator, QualityReport, StepGrid
from jobs.base.context import JobContext
from jobs.base.refs import Ref
from jobs.base.solver import fitted_solver
from jobs.evaluation.sampling import Sampler, describe_solver, open_sampler
from jobs.evaluation.sheet import save_sheet
from jobs.storage.store import Store
from jobs.storage.tensors import load_dataset_tensors, to_float, to_uint8
from jobs.storage.weights import load_weights
from models import counter_random
from models.counter_random import Stream
from models.metrics.cost import Latency, count_macs, count_parameters, measure_latency
from models.metrics.frechet import GaussianStatistics, frechet_distance
from models.metrics.kernel import kernel_distance
from models.metrics.nearest import memorisation
from models.metrics.precision_recall import precision_recall
from models.metrics.straightness import straightness
from models.networks.classifier.spec import ClassifierSpec
from models.solvers.spec import SolverSpec

SHEET_SAMPLES = 100
STRAIGHTNESS_SAMPLES = 256
STRAIGHTNESS_STEPS = 16
NEAREST_SAMPLES = 1000
FLOOR_SEED = 0
LATENCY_BUDGET_MS = 3000.0
FEATURE_BATCH = 1000


class EvaluationSettings(Protocol):
    """What the measurements read of their job's spec."""

    @property
    def seed(self) -> int | None: ...
    @property
    def solver(self) -> SolverSpec | Ref[StepGrid] | None: ...
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
    model: Flow | Generator,
    data: Dataset,
    features: FeatureNet,
) -> QualityReport:
    """Draws samples and measures them against the data.

    Raises:
        UserError: model and solver do not go together.
        FloatingPointError: the samples are not finite.
    """
    torch.set_num_threads(context.threads)
    device = torch.device(context.device)
    seed = spec.seed or 0
    solver = None if spec.solver is None else fitted_solver(context, spec.solver)
    sampler = open_sampler(context.store, model, solver, device)
    extract = open_features(context.store, features, device)
    real, _ = load_dataset_tensors(context.store, data)
    images, nfe = _draw(context, sampler, spec, seed)
    save_sheet(to_float(images[:SHEET_SAMPLES]), context.folder / "samples.png")
    real_features, own_features = extract(real), extract(images)
    statistics = GaussianStatistics.from_features(real_features)
    kid = kernel_distance(real_features, own_features, seed=seed)
    same = min(len(real), len(images))
    some_real = real_features[_subset(len(real), same)]
    manifold = precision_recall(some_real, own_features[:same], spec.neighbours)
    near = memorisation(to_float(images[:NEAREST_SAMPLES]), to_float(real))
    latency = _latency(sampler)
    network = getattr(sampler.flow, "network", None)
    return QualityReport(
        model=model.id,
        model_type="Flow" if isinstance(model, Flow) else "Generator",
        solver=describe_solver(solver),
        fid=frechet_distance(statistics, GaussianStatistics.from_features(own_features)),
        fid_real=_floor(statistics, real_features, len(images)),
        kid=kid.value,
        kid_low=kid.low,
        kid_high=kid.high,
        precision=manifold.precision,
        recall=manifold.recall,
        nfe=nfe,
        samples=len(images),
        features=features.id,
        reference=data.id,
        parameters=count_parameters(network) if network is not None else 0,
        macs=count_macs(network, model.image) if network is not None else 0,
        latency_ms=latency.median_ms,
        latency_p90_ms=latency.p90_ms,
        device=latency.device,
        threads=latency.threads,
        straightness=_straightness(sampler, seed) if isinstance(model, Flow) else None,
        nearest_rms=near.median,
        nearest_rms_real=near.real_median,
    )


def _draw(
    context: JobContext, sampler: Sampler, spec: EvaluationSettings, seed: int
) -> tuple[Tensor, float]:
    """Samples as uint8 (N, C, H, W) on the CPU, and the mean number of evaluations."""
    images: list[Tensor] = []
    nfe, done = 0, 0
    for batch in sampler.draw(seed, spec.samples, spec.batch_size):
        if not bool(batch.images.isfinite().all()):
            raise FloatingPointError(f"samples {done}.. hold NaN or infinity: weights are broken")
        images.append(to_uint8(batch.images).cpu())
        nfe += int(batch.nfe.sum())
        done += len(batch.images)
        context.progress(done, spec.samples)
    return torch.cat(images), nfe / done


def _subset(total: int, count: int) -> Tensor:
    """`count` of `total` numbers, no two alike: data may be sorted by class, so not the first."""
    return counter_random.shuffled_index(FLOOR_SEED, 0, torch.arange(count), total)


def _floor(statistics: GaussianStatistics, real: Tensor, count: int) -> float:
    """Fréchet distance of `count` draws with replacement from the real images, seed 0."""
    index = counter_random.integers(FLOOR_SEED, Stream.SUBSET, torch.arange(count), len(real))
    return frechet_distance(statistics, GaussianStatistics.from_features(real[index]))


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
