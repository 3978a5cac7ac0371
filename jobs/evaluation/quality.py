"""The measurements behind a quality report."""

import hashlib
import time
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from slimctl.jobs.base.artifacts import (
    Dataset,
    EmbeddedPrompts,
    FeatureNet,
    FidProtocol,
    Fleet,
    Flow,
    Generator,
    QualityReport,
)
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.networks import network_of
from slimctl.jobs.base.turns import measure_alone
from slimctl.jobs.evaluation.draws import (
    Drawn,
    Evaluation,
    EvaluationSettings,
    Opened,
    draw_shard,
    find_drawn,
    read_drawn,
    write_drawn,
)
from slimctl.jobs.evaluation.reference import RealImages, measure_real, nearest_candidates
from slimctl.jobs.evaluation.sampling import describe_solver, save_sample_grid
from slimctl.jobs.evaluation.shards import shards_of
from slimctl.jobs.evaluation.statistics_file import read_statistics
from slimctl.jobs.evaluation.subsets import FEWEST, by_labels
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.texts import read_prompt_labels
from slimctl.models.engine import choose_engine, without_engine
from slimctl.models.flows.flow import GuidedFlow
from slimctl.models.metrics import take
from slimctl.models.metrics.cost import count_macs, count_parameters, measure_latency
from slimctl.models.metrics.evidence import Evidence
from slimctl.models.metrics.gaussians import Gaussian
from slimctl.models.networks.autoencoder.spec import decoder_size
from slimctl.models.pixels import to_float
from slimctl.models.routing import RoutedFlow
from slimctl.models.sampling import Sampler

GRID_SAMPLES = 100
LATENCY_BUDGET_MS = 150.0
"""Of one try to measure a latency."""
ROUTED_REQUESTS = 1000


@dataclass(frozen=True)
class Concluded:
    """What an evaluation comes to."""

    report: QualityReport
    images: Tensor
    """The first samples, uint8 (n, C, H, W) on the CPU."""
    warnings: tuple[str, ...]

    def deliver(self, context: JobContext) -> QualityReport:
        """Writes the sample grid into the result and passes the warnings on."""
        save_sample_grid(to_float(self.images), context.folder / "samples.png")
        for warning in self.warnings:
            context.warn(warning)
        return self.report


def measure(context: JobContext, evaluation: Evaluation) -> QualityReport:
    """Draws samples and measures them in this process.

    Raises:
        UserError: model and solver, or features and reference, do not go together.
        FloatingPointError: the samples are not finite.
    """
    torch.set_num_threads(context.threads)
    device = torch.device(context.device)
    context.engine |= choose_engine(device, "sampling", evaluation.spec.precision).model_dump()
    opened = evaluation.open(device, context.threads)
    measure_reals(evaluation, opened)
    spec, total = evaluation.spec, evaluation.spec.samples * evaluation.spec.draws
    shards, drawn, done = shards_of(spec.samples, spec.draws, spec.batch_size), Drawn(), 0

    def seen(count: int) -> None:
        nonlocal done
        done += count
        context.progress(done, total)

    for shard in shards:
        record = find_drawn(evaluation, shard) if len(shards) > 1 else None
        if record is not None:
            drawn.add(read_drawn(evaluation, shard, record))
            seen(shard.count)
            continue
        started = time.perf_counter()
        made = draw_shard(evaluation, opened, shard, seen)
        if len(shards) > 1:
            write_drawn(evaluation, shard, made, started, context.device)
        drawn.add(made)
    compiles = opened.sampler.later
    context.engine["compiled"] = compiles is not None and compiles.compiled
    return conclude(evaluation, opened, drawn).deliver(context)


def measure_reals(evaluation: Evaluation, opened: Opened) -> RealImages:
    """What is measured of the real images; kept for other evaluations.

    Raises:
        UserError: features and reference do not go together.
    """
    spec = evaluation.spec
    return measure_real(
        evaluation.store,
        evaluation.data,
        evaluation.features,
        opened.extract,
        spec.samples,
        spec.manifold_samples,
        _outside_reference(spec, evaluation.features),
    )


def _asked_classes(
    store: Store, prompts: EmbeddedPrompts, data: Dataset, number: Tensor | None
) -> Tensor | None:
    """The classes that prompts of these numbers ask for; None where they do not say them all."""
    if number is None or prompts.prompts.classes != data.image.classes:
        return None
    asked = read_prompt_labels(store, prompts.prompts)[number]
    return asked if bool((asked >= 0).all()) else None


def conclude(evaluation: Evaluation, opened: Opened, drawn: Drawn) -> Concluded:
    """The report, by part as the partition or else the fleet has them, once all is drawn."""
    spec, model, data, sampler = evaluation.spec, evaluation.model, evaluation.data, opened.sampler
    store, real, images = evaluation.store, measure_reals(evaluation, opened), drawn.all_images()
    own = drawn.rows()
    if model.prompts is not None:
        own = own[0], _asked_classes(store, model.prompts, data, own[1])
    evidence = Evidence(
        real=real.features,
        own=own[0],
        labels=own[1],
        images=images,
        real_images=lambda: nearest_candidates(store, data),
        reference=_outside_reference(spec, evaluation.features) or real.statistics,
        draws=drawn.gaussians(),
        floor=real.floor,
        nearest_rms_real=real.nearest_rms,
        sampler=sampler,
        neighbours=spec.neighbours,
        seed=evaluation.seed,
    )
    partition, guidance = evaluation.partition, evaluation.guidance
    subsets = partition.subsets if partition else getattr(model, "subsets", ())
    parts, classes = by_labels(
        store, data, real.features, own, subsets, spec.neighbours, sampler.device
    )
    report = QualityReport(
        model=model.id,
        model_type=_type_of(model),
        solver=describe_solver(evaluation.solver) + (f", {guidance}" if guidance else ""),
        **take(evidence, spec.metrics),
        protocol=_protocol(spec, data, evaluation.features),
        fid_real_draws=len(real.floor),
        nfe=drawn.nfe / (spec.samples * spec.draws),
        samples=spec.samples,
        features=evaluation.features.id,
        chosen_by=_chosen_by(model),
        reference=data.id,
        **(_costs(model, sampler) | _latency(sampler)),
        **_decoding(evaluation, sampler),
        parts=parts,
        classes=classes,
    )
    there = (subsets, parts), (range(data.image.classes), classes)
    return Concluded(report, images[:GRID_SAMPLES], tuple(_left_out(own[1], *there)))


def _chosen_by(model: Flow | Generator | Fleet) -> tuple[str, ...]:
    """The features that chose a model's weights; of a fleet those of all its students."""
    members = model.members if isinstance(model, Fleet) else (model,)
    found = (each.chosen_by for each in members if isinstance(each, Generator))
    return tuple(dict.fromkeys(name for name in found if name))


def _left_out(labels: Tensor | None, *subsets: tuple[Sized, Sized]) -> Iterator[str]:
    """Warnings of parts, then of classes, of too few images.

    Each pair is what there is, and what was measured. Without labels no figures are missed.
    """
    for name, (asked, measured) in zip(("parts", "classes"), subsets, strict=True):
        if labels is not None and len(measured) < len(asked):
            yield (
                f"{len(asked) - len(measured)} of {len(asked)} {name} have no figures of their "
                f"own: fewer than {FEWEST} samples or real images of them are kept; raise samples "
                "and manifold_samples"
            )


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
        networks = [network_of(each) for each in model.members]
        return {
            "parameters": model.parameters,
            "parameters_total": model.parameters_total,
            "macs": max(count_macs(network, model.image) for network in networks),
        }
    flow = sampler.flow.flow if isinstance(sampler.flow, GuidedFlow) else sampler.flow
    network = getattr(flow, "network", None)
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


def _decoding(evaluation: Evaluation, sampler: Sampler) -> dict[str, Any]:
    """What decoding one sample costs; nothing where samples are pixels."""
    handle = evaluation.decoder or evaluation.model.autoencoder
    if handle is None:
        return {}
    size = decoder_size(handle.space.autoencoder, sampler.image)
    index = torch.zeros(1, dtype=torch.int64, device=sampler.device)
    latents = sampler.noise(0, index)

    @torch.no_grad()
    def call() -> None:
        sampler.flow.decode(latents)

    measured = measure_alone(call, sampler.device, budget_ms=LATENCY_BUDGET_MS)
    return {
        "decode_ms": measured.latency.median_ms,
        "decoder_macs": size.macs,
        "decoder_parameters": size.parameters,
    }


def _latency(sampler: Sampler) -> dict[str, Any]:
    """Time of one sample at batch 1, all evaluations and decoding; on what, and whether alone."""
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
