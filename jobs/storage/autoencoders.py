"""Autoencoders into results of jobs and out of them."""

import hashlib
from typing import TYPE_CHECKING

import torch

from slimctl.jobs.base.artifacts import Autoencoder
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError, what_and_fix
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import load_weights, save_weights
from slimctl.models.checkpoints.teacher import AutoencoderFile
from slimctl.models.spec import ImageShape

if TYPE_CHECKING:
    from slimctl.models.networks.autoencoder.network import Autoencoder as Runnable


def save_autoencoder(
    file: AutoencoderFile, context: JobContext, latents: ImageShape
) -> Autoencoder:
    """Writes the weights into a job's result, and returns the handle that names them.

    Args:
        file: what was read or trained.
        context: of the job, whose result holds the weights.
        latents: shape of the latents that it is used for.
    """
    path = context.folder / "autoencoder.safetensors"
    save_weights(file.weights, path)
    with path.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    return Autoencoder(
        id=context.artifact_id,
        network=file.spec.model_dump(mode="json"),
        image=file.spec.pixels(latents).model_copy(update={"classes": 0}),
        parameters=sum(value.numel() for value in file.weights.values()),
        weights=digest,
    )


def open_autoencoder(
    store: Store, handle: Autoencoder | None, device: torch.device
) -> "Runnable | None":
    """The autoencoder of a handle, frozen, on a device; None where there is none.

    Raises:
        UserError: the weights do not fit, or the package that it is of is not installed.
        DamagedArtifact: a file is not what its manifest says.
    """
    if handle is None:
        return None
    try:
        made = handle.space.autoencoder.build()
    except ValueError as error:
        raise UserError(handle.id, *what_and_fix(error)) from error
    load_weights(made, store, handle)
    return made.eval().requires_grad_(requires_grad=False).to(device)
