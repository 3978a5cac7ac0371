"""The model card of an exported model: what it is, from what, by which settings, how good."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from slimctl.jobs.base.artifacts import Dataset, Flow, QualityReport
from slimctl.jobs.base.errors import SlimError
from slimctl.jobs.evaluation.sampling import describe_solver
from slimctl.jobs.export.ship import Shipment
from slimctl.jobs.storage.store import Manifest, Store
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.orchestrator.comparison.lineage import Lineage

UNKNOWN_LICENCE = "other"
NOT_STATED = "Not stated. Mind the licences of the training data and of the teacher."
HIDDEN = ("id", "shards", "rows", "files")


def datasets_behind(store: Store, artifact: str) -> list[Dataset]:
    """Data sets that a model was made from, by id."""
    found = []
    for one in sorted(Lineage(store).behind(artifact)):
        manifest = store.manifest(one)
        if manifest is not None and manifest.type == Dataset.__name__:
            found.append(store.load(one, Dataset))
    return found


def reports_on(store: Store, artifact: str) -> list[QualityReport]:
    """Every sound report of the store on a model, the best FID first."""
    reports = []
    for one in store.find("evaluate-"):
        with contextlib.suppress(SlimError):  # a damaged report of whatever model
            manifest = store.manifest(one)
            if manifest is not None and manifest.handle.get("model") == artifact:
                reports.append(store.load(one, QualityReport))
    return sorted(reports, key=lambda report: report.fid)


def model_card(
    store: Store, artifact: str, shipment: Shipment, to: str, licence: str | None
) -> str:
    """The card as Markdown, with the front matter that model hubs read.

    Args:
        store: where the model is.
        artifact: its id.
        shipment: what was written.
        to: format of the folder.
        licence: as its owner names it; None = not stated.
    """
    known = shipment.description
    lines = [
        "---",
        f"license: {json.dumps(licence or UNKNOWN_LICENCE)}",  # JSON is YAML, quoted
        "library_name: slimctl",
        "pipeline_tag: unconditional-image-generation",
        "---",
        "",
        f"# {' '.join(known.name.split())}",
        "",
        _summary(store, artifact, shipment),
        "",
        "## Use",
        "",
        *_use(to, shipment),
        "",
        "## Training data",
        "",
        *_data_lines(datasets_behind(store, artifact)),
        "",
        "## Quality",
        "",
        *_quality_lines(reports_on(store, artifact)),
        "",
        "## Made from",
        "",
        *_lineage_lines(store, artifact),
        "",
        "## Licence",
        "",
        " ".join(licence.split()) if licence else NOT_STATED,
    ]
    return "\n".join(lines) + "\n"


def _summary(store: Store, artifact: str, shipment: Shipment) -> str:
    known = shipment.description
    handle = store.load_any(artifact)
    image = known.image
    size = f"{image.size} x {image.size} x {image.channels}"
    classes = f", {image.classes} classes" if image.classes else ""
    weights = getattr(handle, "parameters_total", 0) or getattr(handle, "parameters", 0)
    solver = known.solver
    how = "in one network evaluation" if solver is None else f"by {describe_solver(solver)}"
    fleet = f" A fleet of {len(known.members)} networks by class." if known.subsets else ""
    return (
        f"Generates images of {size} pixels{classes} {how}; {weights:,} weights.{fleet} "
        f"Exported from artifact `{artifact}`."
    )


def _use(to: str, shipment: Shipment) -> list[str]:
    if to == "safetensors":
        return [
            "```python",
            "from slimctl.models.generators import load_generator  # of slimctl",
            "",
            "images = load_generator(FOLDER)(16, seed=0)  # uint8 (16, H, W, C)",
            "```",
        ]
    if to == "diffusers":
        return [
            "```python",
            "from slimctl.models.diffusers_pipeline import SlimPipeline  # of slimctl",
            "",
            "images = SlimPipeline.from_pretrained(FOLDER)(batch_size=16, seed=0).images",
            "```",
        ]
    label = ", label int64 (B,)" if shipment.description.image.classes else ""
    one_step = shipment.description.solver is None
    inputs = f"noise float32 (B, C, H, W){label} -> images" if one_step else (
        f"xt float32 (B, C, H, W), t float32 (B,){label} -> velocity dx/dt, t from 0 (noise) to 1"
    )  # fmt: skip
    return [
        f"Inputs and output: {inputs}; pixels in [-1, 1], not clipped, any B.",
        *_start_lines(shipment),
        *_served_lines(shipment),
        "",
        "| file | largest difference from torch | onnxruntime, batch 1 | torch, batch 1 |",
        "|---|---|---|---|",
        *(
            f"| {name} | {check.largest_difference:.1e} | {check.latency_ms:.2f} ms | "
            f"{check.torch_ms:.2f} ms |"
            for name, check in shipment.checks.items()
        ),
    ]


def _start_lines(shipment: Shipment) -> list[str]:
    """Where a solver of an ONNX flow begins: not all flows start at pure noise."""
    known = shipment.description
    if known.solver is None:
        return []
    how = known.members[0].flow or Parameterisation()
    start = 1.0 / (1.0 + how.levels()[1]) if how.denoises else how.t_start
    factor = 1.0 - start if how.denoises else 1.0
    solver = describe_solver(known.solver)
    line = f"Start at t = {start:.6g} with xt = {factor:.6g} times noise of unit variance"
    return [f"{line}, and follow the velocity to t = 1; the folder names {solver}."]


def _served_lines(shipment: Shipment) -> list[str]:
    """Which file of a fleet serves which classes."""
    subsets = shipment.description.subsets
    if not subsets:
        return []
    return [
        f"{name} serves the classes {', '.join(map(str, subset))}."
        for name, subset in zip(shipment.checks, subsets, strict=True)
    ]


def _data_lines(datasets: Sequence[Dataset]) -> list[str]:
    lines = []
    for data in datasets:
        names = f": {', '.join(data.class_names)}" if data.class_names else ""
        classes = f", {data.image.classes} classes{names}" if data.image.classes else ""
        lines.append(
            f"- `{data.id}`: {data.count:,} images of {data.image.size} x {data.image.size} x "
            f"{data.image.channels}{classes}"
        )
    return lines or ["Not known to this storage: the teacher was imported."]


def _quality_lines(reports: Sequence[QualityReport]) -> list[str]:
    if not reports:
        return ["Not measured."]
    lines = [
        "| solver | NFE | FID | KID | precision | recall | samples | features | reference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {one.solver} | {one.nfe:g} | {one.fid:.2f} | {one.kid:.4f} | {one.precision:.3f} | "
        f"{one.recall:.3f} | {one.samples:,} | `{one.features}` | `{one.reference}` |"
        for one in reports
    ]


def _lineage_lines(store: Store, artifact: str) -> list[str]:
    """Every job behind a model, inputs first, with its settings."""
    lineage = Lineage(store)
    lines, seen = [], set()

    def visit(one: str) -> None:
        if one in seen:
            return
        seen.add(one)
        for _, source in lineage.inputs(one):
            visit(source)
        manifest = lineage.manifest(one)
        if manifest is not None:
            lines.append(f"- `{one}` ({_kind(store, one, manifest)}): {_settings(manifest.spec)}")

    visit(artifact)
    return lines


def _kind(store: Store, artifact: str, manifest: Manifest) -> str:
    handle = store.load_any(artifact)
    weights = f", {handle.parameters:,} weights" if isinstance(handle, Flow) else ""
    return f"{manifest.kind}{weights}"


def _settings(spec: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in spec.items() if name not in HIDDEN}
    return ", ".join(f"{name} {value}" for name, value in shown.items()) or "no settings"
