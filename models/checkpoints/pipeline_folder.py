"""Reads the folder of a pipeline of diffusers that makes latents: network, scheduler, autoencoder.

    model_index.json    the class of the pipeline, and of each part
    transformer|unet/   config.json and weights of the network
    scheduler/          what it predicts, on which schedule
    vae/                config.json and weights of the autoencoder

Only safetensors are read, in float16 or float32, in one file or in shards with an index.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slimctl.models.checkpoints.autoencoder_folder import (
    autoencoder_spec,
    read_autoencoder,
    read_safetensors,
)
from slimctl.models.checkpoints.diffusers_folder import (
    Scheduled,
    read_json,
    read_scheduler,
)
from slimctl.models.checkpoints.paths import (
    AUTOENCODER,
    CONFIG,
    INDEX,
    diffusers_scheduler,
    latent_network,
)
from slimctl.models.checkpoints.teacher import (
    AutoencoderFile,
    OverrideError,
    Overrides,
    TeacherFile,
    build_to_fill,
)
from slimctl.models.conditions import NO_TEXT
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.networks.autoencoder.spec import AutoencoderSpec
from slimctl.models.networks.diffusers_model.spec import DiffusersModelSpec
from slimctl.models.networks.published_weights import rename, same_names
from slimctl.models.spec import ImageShape
from slimctl.models.text import TextEncoders
from slimctl.models.text_files import SENTENCE, encoder_kind

PIPELINES: Mapping[str, str] = {
    "DiTPipeline": "DiTTransformer2DModel",
    "StableDiffusionPipeline": "UNet2DConditionModel",
    "StableDiffusionXLPipeline": "UNet2DConditionModel",
    "StableDiffusion3Pipeline": "SD3Transformer2DModel",
    "PixArtAlphaPipeline": "PixArtTransformer2DModel",
    "FluxPipeline": "FluxTransformer2DModel",
}
"""Class of a pipeline that is known here -> class of its network."""


def read_pipeline(path: Path, overrides: Overrides) -> TeacherFile:
    """The network of a folder, with the autoencoder that its latents are of.

    Raises:
        ValueError: a file is missing or damaged, a class is not known, the package is not
            installed, or tensors do not fit; all are listed.
    """
    index = read_json(path / INDEX)
    model = _known_class(index)
    folder = latent_network(path)
    assert folder is not None, "whoever calls has found it"
    if not overrides.ema:
        raise OverrideError("ema", "holds one set of weights only")
    config = read_json(folder / CONFIG)
    _require_class(config, model, folder.name)
    scheduler = diffusers_scheduler(path)
    if scheduler is None:
        raise ValueError("has no scheduler_config.json\n  fix: copy the whole folder")
    read = read_scheduler(read_json(scheduler))
    if overrides.convention is not None:
        read = Scheduled(Parameterisation(), overrides.convention, 1000.0)
    spec = DiffusersModelSpec.model_validate(
        {
            "model": model,
            "config": dict(config),
            "convention": read.convention,
            "timesteps": 1.0 if model == "FluxTransformer2DModel" else read.timesteps,
            "embedded_guidance": overrides.embedded_guidance,
        }
    )
    spec = overrides.network_of(spec)
    autoencoder = _autoencoder(path, spec, overrides)
    image = _image(spec, autoencoder.spec, overrides)
    tensors = read_safetensors(folder, overrides.variant)
    state = {f"model.{name}": own for name, own in tensors.items()}
    network = build_to_fill(spec, image)
    weights = rename(state, same_names(network), network)
    null = NO_TEXT if spec.takes_text else spec.null_class
    how = read.how.model_copy(update={"null_class": null})
    text = None
    if spec.takes_text:
        width = int(spec.config.get("joint_attention_dim") or 0)
        pixels = image.size * autoencoder.spec.factor
        text = TextEncoders(path, str(index["_class_name"]), pixels, width)
    return TeacherFile(
        spec, image, overrides.starting(how), weights, autoencoder=autoencoder, text=text
    )


def _known_class(index: Mapping[str, Any]) -> str:
    """The class of the network of a pipeline."""
    name = str(index.get("_class_name"))
    if name not in PIPELINES:
        raise ValueError(
            f"is a {name}, which this program does not know"
            f"\n  fix: give a folder of {', '.join(PIPELINES)}, or of a UNet2DModel"
        )
    return PIPELINES[name]


def _require_class(config: Mapping[str, Any], wanted: str, folder: str) -> None:
    found = config.get("_class_name", wanted)
    if found != wanted:
        raise ValueError(
            f"holds a {found} in {folder}, where its pipeline has a {wanted}"
            f"\n  fix: give a folder with a {wanted}"
        )


def _image(
    spec: DiffusersModelSpec, autoencoder: AutoencoderSpec, overrides: Overrides
) -> ImageShape:
    """The latents that a network works on."""
    size = spec.config.get("sample_size")
    if spec.packed and isinstance(autoencoder.config.get("sample_size"), int):
        size = autoencoder.config["sample_size"] // autoencoder.factor
    size = overrides.size if size is None else size
    if not isinstance(size, int) or size < 1:
        raise ValueError("does not say the size of its latents\n  fix: give size")
    image = ImageShape(channels=spec.channels, size=size, classes=spec.null_class or 0)
    overrides.require_image(image)
    return image


def _autoencoder(path: Path, network: DiffusersModelSpec, overrides: Overrides) -> AutoencoderFile:
    """The autoencoder of a pipeline, which must make latents of the network's channels."""
    folder = overrides.autoencoder or path / AUTOENCODER
    if overrides.autoencoder is None and not (folder / CONFIG).is_file():
        parts = ", ".join(sorted(entry.name for entry in path.iterdir() if entry.is_dir()))
        raise ValueError(
            f"makes latents, but has no {AUTOENCODER}/{CONFIG} to decode them by; it has {parts}"
            "\n  fix: copy the whole folder, or give a pipeline with an AutoencoderKL"
        )
    spec = autoencoder_spec(folder)
    if spec.latent_channels != network.channels:
        raise ValueError(
            f"has an autoencoder of {spec.latent_channels} latent channels, but its network "
            f"takes {network.channels}"
            "\n  fix: give the autoencoder that the network was trained with"
        )
    return read_autoencoder(folder, overrides.variant)


def open_text_encoders(path: Path, length: int | None = None) -> TextEncoders:
    """The encoders of a pipeline's folder, or of a folder with a sentence encoder alone.

    Args:
        path: the folder.
        length: tokens of a sentence; None = as many as the encoder takes.

    Raises:
        ValueError: it has no encoder that is known here.
    """
    pipeline = encoder_kind(path)
    if pipeline == SENTENCE:
        return TextEncoders(path, pipeline, 0, length=length)
    folder = latent_network(path)
    config = read_json(folder / CONFIG) if folder else {}
    vae = path / AUTOENCODER / CONFIG
    factor = AutoencoderSpec(config=dict(read_json(vae))).factor if vae.is_file() else 1
    width = int(config.get("joint_attention_dim") or 0)
    return TextEncoders(path, pipeline, int(config.get("sample_size") or 0) * factor, width)
