"""Writing a model of the store as a folder that works without it, whole or not at all."""

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from jobs.base.artifacts import Generator
from jobs.base.errors import JobFailed, UserError
from jobs.shipping.described import Model, describe, members_of, weights_of
from jobs.storage.flows import open_flow, open_network
from jobs.storage.store import Store
from models.flows.flow import NetworkFlow
from models.model_folder import DESCRIPTION, ModelDescription, write_model_folder
from models.onnx_export import OnnxCheck, OnnxMismatchError, export_onnx

Format = Literal["safetensors", "onnx", "diffusers"]
CARD = "README.md"


@dataclass(frozen=True)
class Shipment:
    """What was written.

    Args:
        description: of the model.
        checks: of each ONNX file, by name.
    """

    description: ModelDescription
    checks: dict[str, OnnxCheck]


def check_free(folder: Path, *, replace: bool) -> None:
    """Refuses to write over something.

    Raises:
        UserError: a file is there, or a folder that is not empty.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not replace):
        what = "is a file" if folder.is_file() else "is there already and not empty"
        raise UserError(str(folder), what, "name a new folder with -o, or give --force")


def ship(
    store: Store,
    model: Model,
    folder: Path,
    to: Format,
    *,
    name: str,
    nfe: int,
    class_names: Sequence[str] = (),
    card: Callable[[Shipment], str],
) -> Shipment:
    """Writes the folder with its model card.

    Args:
        store: where the model is.
        model: its handle.
        folder: what is there is replaced, once all is written.
        to: kind of folder.
        name: what to call the model.
        nfe: Euler steps of a flow.
        class_names: names of the classes, where they are known.
        card: the model card of what was written.

    Raises:
        UserError: the packages that this takes are not installed.
        JobFailed: an ONNX file computes something else than the model.
    """
    description = describe(model, name, nfe, tuple(class_names))
    fresh = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
    fresh.mkdir(parents=True)
    checks: dict[str, OnnxCheck] = {}
    try:
        if to == "safetensors":
            write_model_folder(fresh, description, weights_of(store, model))
        elif to == "onnx":
            checks = _write_onnx(store, model, fresh, description)
        else:
            _write_diffusers(store, model, fresh, description)
        shipment = Shipment(description, checks)
        (fresh / CARD).write_text(card(shipment))
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(fresh, folder)  # noqa: PTH105  (a folder, at once)
    except ModuleNotFoundError as error:
        extra = "onnx" if to == "onnx" else "diffusers"
        raise UserError(
            f"--to {to}", f"needs {error.name}", f"pip install 'slimctl[{extra}]'"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return shipment


def _write_onnx(
    store: Store, model: Model, folder: Path, description: ModelDescription
) -> dict[str, OnnxCheck]:
    device = torch.device("cpu")
    checks: dict[str, OnnxCheck] = {}
    for member, one in zip(description.members, members_of(model), strict=True):
        one_step = isinstance(one, Generator)
        flow = (
            NetworkFlow(open_network(store, one, device), one.image, one.t_start)
            if isinstance(one, Generator)
            else open_flow(store, one, device)
        )
        name = member.file.replace("weights", "model").replace(".safetensors", ".onnx")
        try:
            checks[name] = export_onnx(flow, folder / name, one_step=one_step)
        except OnnxMismatchError as error:
            raise JobFailed(one.id, str(error), "export it --to safetensors") from error
    (folder / DESCRIPTION).write_text(description.model_dump_json(indent=1) + "\n")
    return checks


def _write_diffusers(
    store: Store, model: Model, folder: Path, description: ModelDescription
) -> None:
    from models.diffusers_pipeline import write_diffusers  # noqa: PLC0415  (an extra)

    write_diffusers(folder, description, [dict(one) for one in weights_of(store, model)])
