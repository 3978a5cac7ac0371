"""The model card of an exported model: what it is, from what, by which settings, how good."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimctl.jobs.base.artifacts import Dataset, Flow, QualityReport
from slimctl.jobs.base.errors import SlimError
from slimctl.jobs.evaluation.sampling import describe_solver
from slimctl.jobs.export.ship import Shipment
from slimctl.jobs.storage.store import Store
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.metrics import Metric
from slimctl.models.networks.two_times.spec import TwoTimesSpec
from slimctl.models.spec import ImageShape
from slimctl.orchestrator.results.lineage import Lineage
from slimctl.orchestrator.results.render import ABSENT, as_markdown, shown

UNKNOWN_LICENCE = "other"
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

    The model is an artifact of the store that was written as `shipment` in the format `to`; its
    licence is as its owner names it, None = not stated.
    """
    from jinja2 import Environment

    known = shipment.description
    label = ", label int64 (B,)" if known.image.classes else ""
    inputs = f"noise float32 (B, C, H, W){label} -> images"
    if known.solver is not None:
        inputs = (
            f"xt float32 (B, C, H, W), t float32 (B,){label} -> velocity dx/dt, t from 0 (noise) "
            "to 1"
        )
    card = Environment(trim_blocks=True, keep_trailing_newline=True).from_string(
        Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    )
    return card.render(
        licence_json=json.dumps(licence or UNKNOWN_LICENCE),  # JSON is YAML, quoted
        licence=" ".join((licence or "").split()),
        name=" ".join(known.name.split()),
        summary=_summary(store, artifact, shipment),
        to=to,
        inputs=inputs,
        start=_start_lines(shipment),
        served=_served_lines(shipment),
        checks=shipment.checks,
        data=_data_lines(datasets_behind(store, artifact)),
        quality=_quality(reports_on(store, artifact)),
        made_from=_lineage_lines(store, artifact),
    )


def _summary(store: Store, artifact: str, shipment: Shipment) -> str:
    known = shipment.description
    handle = store.load_any(artifact)
    classes = f", {known.image.classes} classes" if known.image.classes else ""
    weights = getattr(handle, "parameters_total", 0) or getattr(handle, "parameters", 0)
    solver = known.solver
    how = "in one network evaluation" if solver is None else f"by {describe_solver(solver)}"
    fleet = f" A fleet of {len(known.members)} networks by class." if known.subsets else ""
    return (
        f"Generates images of {_pixels(known.image)} pixels{classes} {how}; {weights:,} weights."
        f"{fleet} Exported from artifact `{artifact}`."
    )


def _pixels(image: ImageShape) -> str:
    return f"{image.size} x {image.size} x {image.channels}"


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
    if isinstance(known.members[0].network, TwoTimesSpec):
        step = "add (end - t) times the mean velocity of each step up to t = 1, of one or of more"
        return [f"{line}, and {step}; the folder names {solver}."]
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
        lines.append(f"- `{data.id}`: {data.count:,} images of {_pixels(data.image)}{classes}")
    return lines or ["Not known to this storage: the teacher was imported."]


def _quality(reports: Sequence[QualityReport]) -> str:
    if not reports:
        return "Not measured."
    known = [metric for metric in shown(reports) if not metric.cost]
    labels = [metric.label for metric in known]
    head = ("solver", "NFE", *labels, "samples", "features", "reference")
    rows = [
        (
            one.solver, f"{one.nfe:g}", *(_number(metric, one) for metric in known),
            f"{one.samples:,}", f"`{one.features}`", f"`{one.reference}`",
        )
        for one in reports
    ]  # fmt: skip
    return as_markdown(head, rows).strip()


def _number(metric: Metric, report: QualityReport) -> str:
    """A number by itself: one without its interval, which tables have, gets a digit more."""
    value = report.number(metric.name)
    digits = metric.decimals
    if value is None or digits is None:
        return ABSENT if value is None else metric.text(value)
    return metric.text(value, digits + metric.interval)


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
            handle = store.load_any(one)
            weights = f", {handle.parameters:,} weights" if isinstance(handle, Flow) else ""
            lines.append(f"- `{one}` ({manifest.kind}{weights}): {_settings(manifest.spec)}")

    visit(artifact)
    return lines


def _settings(spec: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in spec.items() if name not in HIDDEN}
    return ", ".join(f"{name} {value}" for name, value in shown.items()) or "no settings"
