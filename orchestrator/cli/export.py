"""The verb that writes a model of the store as a folder to deploy."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimctl.orchestrator.cli.options import LIMIT, Json, Storage, open_store
from slimctl.orchestrator.cli.output import echo
from slimctl.orchestrator.cli.show import find_model_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slimctl.models.onnx_export import OnnxCheck


class Target(StrEnum):
    """Formats of an exported model."""

    SAFETENSORS = "safetensors"
    ONNX = "onnx"
    DIFFUSERS = "diffusers"


def export(
    model: Annotated[str, typer.Argument(help="RUN/JOB or the beginning of an artifact id.")],
    to: Annotated[Target, typer.Option(help="Format of the folder.")] = Target.SAFETENSORS,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder to make; else called after the model."),
    ] = None,
    nfe: Annotated[
        int | None,
        typer.Option(min=1, max=LIMIT, help="Euler steps of a flow; else 50.", show_default=False),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name on the model card.")] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", "--license", help="For the card: `mit`, ...")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in the folder.")] = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write a flow, generator or fleet as a folder that works without the storage.

    safetensors opens with `slimctl.models.checkpoints.model_format.load_generator`, diffusers with
    `DiffusionPipeline.from_pretrained`; ONNX files are compared with torch and timed.
    """
    from slimctl.jobs.evaluation.sampling import FLOW_STEPS, check_steps
    from slimctl.jobs.export.ship import Shipment, check_free, find_model, ship
    from slimctl.orchestrator.results.card import datasets_behind, model_card

    store = open_store(storage)
    artifact = find_model_id(store, model)
    handle = find_model(store, artifact)
    check_steps(handle, nfe)
    called = name or model.rpartition("/")[2]
    folder = output or Path(f"{called}-{to.value}")
    check_free(folder, replace=force)
    names = next((d.class_names for d in datasets_behind(store, artifact) if d.class_names), ())

    def card(shipment: Shipment) -> str:
        return model_card(store, artifact, shipment, to.value, licence)

    shipment = ship(
        store,
        handle,
        folder,
        to.value,
        name=called,
        nfe=nfe or FLOW_STEPS,
        class_names=names,
        card=card,
    )
    _tell(folder, artifact, shipment.checks, as_json=as_json)


def _tell(folder: Path, artifact: str, checks: "Mapping[str, OnnxCheck]", *, as_json: bool) -> None:
    if as_json:
        data = {file: check.model_dump() for file, check in checks.items()}
        echo(json.dumps({"folder": str(folder), "artifact": artifact, "checks": data}))
        return
    echo(str(folder))
    for file, check in checks.items():
        echo(
            f"{file}: {check.largest_difference:.1e} from torch at most; batch 1 takes "
            f"{check.latency_ms:.2f} ms by onnxruntime, {check.torch_ms:.2f} ms by torch"
        )
