"""Writing a model of the store as a folder that works without it, whole or not at all."""

import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from slimctl.jobs.base.artifacts import Fleet, Flow, Generator
from slimctl.jobs.base.errors import JobFailed, UserError
from slimctl.jobs.evaluation.sampling import takes_solver
from slimctl.jobs.storage.autoencoders import open_autoencoder
from slimctl.jobs.storage.flows import open_flow, open_network
from slimctl.jobs.storage.store import Store
from slimctl.models.checkpoints.model_format import Member, ModelDescription, write_model_folder
from slimctl.models.checkpoints.paths import DESCRIPTION
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.networks.registry import parse_network
from slimctl.models.onnx_export import OnnxCheck, OnnxExportError, export_decoder, export_onnx
from slimctl.models.solvers.spec import EulerSpec

Model = Flow | Generator | Fleet


def find_model(store: Store, artifact: str) -> Model:
    """The handle of a model.

    Raises:
        UserError: it is something else, or a closed form, which has no weights.
    """
    handle = store.load_any(artifact)
    if not isinstance(handle, (Flow, Generator, Fleet)):
        raise UserError(
            artifact,
            f"is a {type(handle).__name__}, no model",
            "name a flow, a generator or a fleet",
        )
    for one in members_of(handle):
        if one.network is None:
            raise UserError(
                one.id,
                "is the closed form of a data set, which has no weights to export",
                "export a network that was trained on its pairs",
            )
    return handle


def members_of(model: Model) -> tuple[Flow | Generator, ...]:
    """The networks of a model: itself, or the students of a fleet."""
    return model.members if isinstance(model, Fleet) else (model,)


def describe(
    model: Model, name: str, nfe: int, class_names: tuple[str, ...] = ()
) -> ModelDescription:
    """What a folder with the model would say of it."""
    fleet = isinstance(model, Fleet)
    ending = ".safetensors"
    return ModelDescription(
        name=name,
        image=model.image,
        members=tuple(
            Member(
                network=parse_network(one.network),
                file=f"weights-{at}{ending}" if fleet else f"weights{ending}",
                flow=_parameterisation(one) if isinstance(one, Flow) else None,
                t_start=one.t_start,
            )
            for at, one in enumerate(members_of(model))
        ),
        subsets=model.subsets if isinstance(model, Fleet) else (),
        solver=EulerSpec(steps=nfe) if takes_solver(model) else None,
        label_counts=model.label_counts,
        class_names=class_names if model.image.classes else (),
        autoencoder=model.autoencoder.space.autoencoder if model.autoencoder else None,
    )


def weights_of(store: Store, model: Model) -> list[Mapping[str, Tensor]]:
    """Averaged weights of each network of a model, by parameter name.

    Raises:
        DamagedArtifact: a file is not what its manifest says.
    """
    return [load_file(store.file(one, one.file)) for one in members_of(model)]


def decoder_of(store: Store, model: Model) -> Mapping[str, Tensor] | None:
    """Weights of what decodes its latents, by name; None where it makes pixels.

    Raises:
        DamagedArtifact: a file is not what its manifest says.
    """
    handle = model.autoencoder
    return None if handle is None else load_file(store.file(handle, handle.file))


def _parameterisation(flow: Flow) -> Parameterisation:
    fields = Parameterisation.model_fields
    return Parameterisation.model_validate(
        {name: value for name, value in flow.model_dump().items() if name in fields}
    )


Format = Literal["safetensors", "onnx", "diffusers"]
CARD = "README.md"
DECODER = "decoder.onnx"
"""From latents to pixels."""
MADE_HERE = (DESCRIPTION, "model_index.json")
"""One of them is in every folder that an export made."""


@dataclass(frozen=True)
class Shipment:
    """What was written."""

    description: ModelDescription
    checks: dict[str, OnnxCheck]


def check_free(folder: Path, *, replace: bool) -> None:
    """Refuses to write over anything but a folder that an export made, and that only if asked.

    Raises:
        UserError: a file or a link is there, or a folder that is not empty.
    """
    fix = "name a new folder with -o"
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(str(folder), "is a link" if folder.is_symlink() else "is a file", fix)
    if not folder.is_dir():
        return
    if folder.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise UserError(str(folder), "is the folder that you are in", fix)
    if any(folder.iterdir()) and not replace:
        raise UserError(
            str(folder), "is there already and not empty", f"{fix}, or replace it with --force"
        )
    if any(folder.iterdir()) and not any((folder / name).is_file() for name in MADE_HERE):
        raise UserError(str(folder), "holds something else than an exported model", fix)


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
    folder = folder.absolute()
    fresh = folder.parent / f".{folder.name}-{uuid.uuid4().hex[:8]}"
    fresh.mkdir(parents=True)
    checks: dict[str, OnnxCheck] = {}
    try:
        if to == "safetensors":
            weights, decoder = weights_of(store, model), decoder_of(store, model)
            write_model_folder(fresh, description, weights, decoder)
        elif to == "onnx":
            checks = _write_onnx(store, model, fresh, description)
        else:
            _write_diffusers(store, model, fresh, description)
        shipment = Shipment(description, checks)
        (fresh / CARD).write_text(card(shipment))
        _put_in_place(fresh, folder)
    except ModuleNotFoundError as error:
        extra = "onnx" if to == "onnx" else "diffusers"
        raise UserError(
            f"--to {to}", f"needs {error.name}", f"pip install 'slimctl[{extra}]'"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return shipment


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Gives a finished folder its name; what had it is deleted last, or put back."""
    for path in fresh.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors writes for the user alone
    fresh.chmod(0o755)
    aside = fresh.with_name(f"{fresh.name}-old")
    if folder.is_dir():
        folder.rename(aside)
    try:
        fresh.rename(folder)
    except OSError:
        if aside.is_dir():
            aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _write_onnx(
    store: Store, model: Model, folder: Path, description: ModelDescription
) -> dict[str, OnnxCheck]:
    device = torch.device("cpu")
    checks: dict[str, OnnxCheck] = {}
    decoder = open_autoencoder(store, model.autoencoder, device)
    for member, one in zip(description.members, members_of(model), strict=True):
        one_step = isinstance(one, Generator)
        flow = (
            NetworkFlow(open_network(store, one, device), one.image, one.t_start)
            if isinstance(one, Generator)
            else open_flow(store, one, device)
        )
        flow.autoencoder = decoder
        name = member.file.replace("weights", "model").replace(".safetensors", ".onnx")
        try:
            checks[name] = export_onnx(flow, folder / name, one_step=one_step)
        except OnnxExportError as error:
            raise JobFailed(one.id, str(error), "export it --to safetensors") from error
    if decoder is not None:
        try:
            checks[DECODER] = export_decoder(decoder, model.image, folder / DECODER)
        except OnnxExportError as error:
            raise JobFailed(model.id, str(error), "export it --to safetensors") from error
    (folder / DESCRIPTION).write_text(description.model_dump_json(indent=1) + "\n")
    return checks


def _write_diffusers(
    store: Store, model: Model, folder: Path, description: ModelDescription
) -> None:
    from slimctl.models.diffusers_pipeline import write_diffusers  # noqa: PLC0415  (an extra)

    weights = [dict(one) for one in weights_of(store, model)]
    write_diffusers(folder, description, weights, decoder_of(store, model))
