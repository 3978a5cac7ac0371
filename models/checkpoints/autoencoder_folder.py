"""Reads the folder of an autoencoder of diffusers: config.json and weights in safetensors."""

from pathlib import Path

import torch

from slimctl.models.checkpoints.diffusers_folder import read_json, read_weights
from slimctl.models.checkpoints.paths import (
    CONFIG,
    autoencoder_folder,
    chosen_variant,
    weight_files,
    weight_variants,
)
from slimctl.models.checkpoints.teacher import AutoencoderFile
from slimctl.models.networks.autoencoder.spec import AutoencoderSpec
from slimctl.models.networks.published_weights import rename, same_names
from slimctl.models.shapes import Tensor

KNOWN = ("AutoencoderKL", "AutoencoderTiny")
SAVE_AGAIN = "DiffusionPipeline.from_pretrained(...).save_pretrained(..., safe_serialization=True)"
"""What to do with weights that are no safetensors."""


def read_autoencoder(path: Path, variant: str | None = None) -> AutoencoderFile:
    """The autoencoder of a folder, or of the pipeline in it.

    Args:
        path: folder with config.json, or of a pipeline with such a folder.
        variant: of the weights, such as fp16, where there is one; None = the unnamed one.

    Raises:
        ValueError: it is no autoencoder that is known here, or not whole; all tensors that do not
            fit are listed.
    """
    spec = autoencoder_spec(path)
    folder = autoencoder_folder(path)
    assert folder is not None
    there = variant if variant in weight_variants(folder) else None
    state = {f"model.{key}": own for key, own in read_safetensors(folder, there).items()}
    with torch.device("meta"):
        made = spec.build()
    return AutoencoderFile(spec, rename(state, same_names(made), made))


def autoencoder_spec(path: Path) -> AutoencoderSpec:
    """What its config.json says of the autoencoder of a folder, or of the pipeline in it.

    Raises:
        ValueError: it is no autoencoder that is known here.
    """
    folder = autoencoder_folder(path)
    if folder is None:
        raise ValueError(f"has no {CONFIG}\n  fix: give the folder of an {' or '.join(KNOWN)}")
    config = read_json(folder / CONFIG)
    name = config.get("_class_name", KNOWN[0])
    if name not in KNOWN:
        raise ValueError(
            f"holds a {name} in {folder.name}, which this program does not know"
            f"\n  fix: give an {' or '.join(KNOWN)}"
        )
    return AutoencoderSpec(model=name, config=dict(config))


def read_safetensors(folder: Path, variant: str | None) -> dict[str, Tensor]:
    """The tensors of a part, of safetensors only.

    Raises:
        ValueError: there are none, or they are damaged.
    """
    chosen = chosen_variant(folder, ema=True, variant=variant)
    files = () if chosen is None else weight_files(folder, chosen)
    pickled = [file.name for file in files if file.suffix == ".bin" or ".bin." in file.name]
    if pickled:
        raise ValueError(
            f"{folder.name}/{pickled[0]} is a pickle, which is not read; nothing was run"
            f"\n  fix: write the folder again with safetensors: {SAVE_AGAIN}"
        )
    return read_weights(folder, chosen)
