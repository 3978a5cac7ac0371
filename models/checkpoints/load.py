"""`load_teacher`: the one way from a file of anybody's to a flow.

The kind of a file is known by its first bytes, not by its name.
"""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from slimctl.models.checkpoints.autoencoder_folder import read_autoencoder
from slimctl.models.checkpoints.diffusers_folder import read_diffusers
from slimctl.models.checkpoints.edm_snapshot import read_edm_snapshot
from slimctl.models.checkpoints.model_format import ModelFolderError, read_model
from slimctl.models.checkpoints.paths import DESCRIPTION, latent_network, require_path
from slimctl.models.checkpoints.pipeline_folder import read_pipeline
from slimctl.models.checkpoints.state_dict import read_checkpoint
from slimctl.models.checkpoints.teacher import (
    AutoencoderFile,
    OverrideError,
    Overrides,
    TeacherFile,
)
from slimctl.models.flows.flow import Flow
from slimctl.models.flows.parameterisation import Prediction, Schedule

_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of a file of torch.save that is no zip archive: a pickled number."""


def load_teacher(
    path: str | PathLike[str],
    *,
    ema: bool = True,
    variant: str | None = None,
    size: int | None = None,
    image_channels: int | None = None,
    classes: int | None = None,
    t_start: float | None = None,
    prediction: Prediction | None = None,
    schedule: Schedule | None = None,
    convention: Literal["instaflow"] | None = None,
    embedded_guidance: float | None = None,
    autoencoder: str | PathLike[str] | None = None,
    **network: Any,
) -> Flow:
    """Reads a flow from a checkpoint; nothing in the file is executed.

    Args:
        path: a checkpoint of SlimFlow or RectifiedFlow (`.pth`), a snapshot of EDM (`.pkl`), a
            file of `save_flow` (`.safetensors`), a folder that `slimctl export` wrote, a folder of
            diffusers (a `UNet2DModel`, or a pipeline of latents with its autoencoder), a
            checkpoint of SiT, or the state dictionary of a network that the other arguments
            describe.
        ema: read the averaged weights, where the file has others too.
        variant: of the weights in a folder of diffusers, such as fp16; None is the unnamed one,
            else the only one.
        size: height and width of the images in pixels; None is what the file says. An NCSN++ of
            SlimFlow does not say: 16 times the power of two that puts its attention at 16 px, or
            32 where that leaves a choice.
        image_channels: channels of the images; None is what the file says.
        classes: number of classes; None is what the file says.
        t_start: flow time at which sampling starts; None is what the file says, 1e-3 for SlimFlow
            and 1/81 for EDM.
        prediction: what the network predicts, where the file does not say; None = a velocity.
        schedule: noise that it was trained with, where the file does not say.
        convention: `instaflow` for a pipeline whose network is told 1000 (1 - t) and answers
            image - noise, which nothing in its folder says.
        embedded_guidance: guidance that a network takes as an input, such as FLUX dev's.
        autoencoder: folder of what its images are latents of; None = the one in its pipeline.
        network: fields of the network's spec to use instead of what its tensors say, such as
            attention_resolutions or dropout; with `kind`, the whole spec.

    Returns:
        The flow, on the CPU, frozen and in evaluation mode; a `DenoisingFlow` (with `denoise`)
        unless the network predicts velocities. A flow of latents has the autoencoder of its folder
        (`decode`).

    Raises:
        FileNotFoundError: there is no such file; names the most similar one.
        ValueError: the file is damaged, names what it may not, holds another kind of network, or
            its tensors do not fit. Every tensor that differs is listed, and nothing is loaded.
    """
    overrides = Overrides(
        ema=ema, variant=variant, size=size, image_channels=image_channels, classes=classes,
        t_start=t_start, prediction=prediction, schedule=schedule, convention=convention,
        embedded_guidance=embedded_guidance, network=network,
        autoencoder=None if autoencoder is None else Path(autoencoder),
    )  # fmt: skip
    return read_teacher(Path(path), overrides).flow()


def read_teacher(path: Path, overrides: Overrides) -> TeacherFile:
    """Reads and checks a file without building its network; raises as `load_teacher`."""
    try:
        reader = find_reader(path)
        read = reader(path, overrides)
        if overrides.autoencoder is not None and reader is not read_pipeline:
            read = replace(read, autoencoder=_other_autoencoder(overrides.autoencoder, read))
        read.require_finite()
    except ModelFolderError:
        raise
    except OverrideError as error:
        raise error.inside(path) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return read


def _other_autoencoder(folder: Path, read: TeacherFile) -> AutoencoderFile:
    """The autoencoder in a folder, for the latents of a network; raises OverrideError."""
    try:
        found = read_autoencoder(folder)
        found.spec.require_latents(read.image)
    except (ValueError, OSError) as error:
        what = str(error).partition("\n")[0]
        raise OverrideError("autoencoder", f"cannot use {folder}: it {what}") from error
    return found


def find_reader(path: Path) -> Callable[[Path, Overrides], TeacherFile]:
    """Who reads a file, by its first bytes.

    Raises:
        FileNotFoundError: there is no such file; names the most similar one.
        ValueError: nobody does.
    """
    require_path(path)
    ours = (path / DESCRIPTION).is_file()
    if path.is_dir() and not ours:
        return read_diffusers if latent_network(path) is None else read_pipeline
    reader, what = (read_model, "model") if ours else (_file_reader(path), "file")

    def read(path: Path, overrides: Overrides) -> TeacherFile:
        _refuse_conventions(overrides)
        if overrides.variant is not None:
            raise OverrideError("variant", f"is one {what}, without variants")
        return reader(path, overrides)

    return read


def _refuse_conventions(overrides: Overrides) -> None:
    """Raises OverrideError for what is of pipelines only."""
    for name in ("convention", "embedded_guidance"):
        if getattr(overrides, name) is not None:
            raise OverrideError(name, "is no pipeline of diffusers that makes latents")


def _file_reader(path: Path) -> Callable[[Path, Overrides], TeacherFile]:
    with path.open("rb") as file:
        start = file.read(len(_OLD_TORCH))
    if zipfile.is_zipfile(path) or start == _OLD_TORCH:
        return read_checkpoint
    if start[8:9] == b"{":
        return read_model
    if start[:1] == b"\x80":
        return read_edm_snapshot
    raise ValueError(
        "is neither a checkpoint of torch.save, a pickle nor safetensors"
        "\n  fix: give a .pth of SlimFlow, a .pkl of EDM or a .safetensors of save_flow"
    )
