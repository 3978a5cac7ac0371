"""DINOv2 and CLIP as feature networks, from a folder of Hugging Face that the user has.

The folder holds `config.json`, weights as safetensors and, where preprocessing is not the usual
one, `preprocessor_config.json`. The networks are transformers' own, built from the configuration;
nothing in the folder is run, and nothing is fetched.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from slimctl.jobs.base.errors import UserError
from slimctl.models.spec import Spec

CONFIG, PREPROCESSING, WEIGHTS = "config.json", "preprocessor_config.json", "*.safetensors"
JSON_BYTES = 2**20
"""Of the largest configuration that is read."""
FIX = "name a folder of Dinov2Model or CLIPModel with config.json and model.safetensors"
USUAL = {
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Mean and deviation of the colours that each was trained on, in [0, 1]."""


class TransformerSpec(Spec):
    """A network of transformers and how images are made ready for it."""

    family: str
    """dinov2 or clip."""
    config: dict[str, Any]
    """Of the network: transformers' `Dinov2Config` or `CLIPVisionConfig`, as plain data."""
    size: int
    """Height and width that images are resized to, px."""
    mean: tuple[float, float, float]
    """Of red, green and blue, which is subtracted, in [0, 1]."""
    deviation: tuple[float, float, float]
    """Of red, green and blue, which is divided by."""

    @property
    def dimensions(self) -> int:
        """Length of a feature vector."""
        name = "hidden_size" if self.family == "dinov2" else "projection_dim"
        return int(self.config[name])


class TransformerFolder(NamedTuple):
    """A network on disk."""

    spec: TransformerSpec
    files: tuple[Path, ...]
    """All that the features depend on."""


def folder_files(folder: Path) -> tuple[Path, ...]:
    """The files of a folder that count.

    Raises:
        UserError: it is no such folder.
    """
    about = [folder / name for name in (CONFIG, PREPROCESSING) if (folder / name).is_file()]
    weights = sorted(folder.glob(WEIGHTS))
    if not weights or folder / CONFIG not in about:
        raise UserError(str(folder), f"has no {CONFIG} or no .safetensors", FIX)
    return (*about, *weights)


def read_folder(folder: Path) -> TransformerFolder:
    """What a folder holds, without its weights.

    Raises:
        UserError: it is no network that is known, or a file of it is damaged.
    """
    files = folder_files(folder)
    config = _json(folder / CONFIG)
    family = config.get("model_type")
    if family == "clip":
        inner = _mapping(config.get("vision_config"), folder)
        config = inner | {"projection_dim": config.get("projection_dim", 512)}
    elif family == "clip_vision_model":
        family = "clip"
    if family not in USUAL:
        raise UserError(str(folder), f"is a network of type {family!r}, not dinov2 or clip", FIX)
    given = _json(folder / PREPROCESSING) if folder / PREPROCESSING in files else {}
    mean, deviation = USUAL[family]
    try:
        full = _config_class(family).from_dict(config).to_dict()
        spec = TransformerSpec(
            family=family,
            config=full,
            size=_size(given, full),
            mean=given.get("image_mean", mean),
            deviation=given.get("image_std", deviation),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        said = str(error).splitlines()[0]
        raise UserError(str(folder), f"has a configuration that is none: {said}", FIX) from error
    return TransformerFolder(spec, files)


def read_weights(folder: TransformerFolder) -> dict[str, Tensor]:
    """The weights of the network that makes the features, float32, by their names in it.

    transformers reads them, since it names weights otherwise in files than in its networks.

    Raises:
        UserError: a file is damaged, or a weight is missing or of another shape.
    """
    root = folder.files[0].parent
    quiet = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    config = _config_class(folder.spec.family).from_dict(dict(folder.spec.config))
    try:
        network, found = _network_class(folder.spec.family).from_pretrained(
            root, config=config, dtype=torch.float32, **quiet
        )
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(str(root), f"has weights that cannot be read: {said}", FIX) from error
    bad = sorted({*found["missing_keys"], *(each[0] for each in found["mismatched_keys"])})
    if bad:
        what = f"{len(bad)} weights are missing or of another shape, the first {bad[0]}"
        raise UserError(str(root), what, FIX)
    weights: dict[str, Tensor] = network.state_dict()
    return weights


def build(spec: TransformerSpec) -> nn.Module:
    """The network, with random weights.

    Raises:
        UserError: transformers is not installed.
    """
    config = _config_class(spec.family).from_dict(dict(spec.config))
    network: nn.Module = _network_class(spec.family)(config)
    return network


class TransformerFeatures(nn.Module):
    """uint8 images (B, 1 or 3, H, W) to features (B, D): DINOv2's class token, CLIP's embedding.

    Images are resized by a bicubic filter with antialiasing, as both were trained and as FD-DINOv2
    (arXiv 2306.04675) is measured.
    """

    def __init__(self, spec: TransformerSpec, network: nn.Module) -> None:
        super().__init__()
        self._spec = spec
        self.mean: Tensor
        self.deviation: Tensor
        self.network = network
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(spec.deviation).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = images.float().expand(-1, 3, -1, -1) / 255
        shape = (self._spec.size, self._spec.size)
        if x.shape[2:] != shape:
            x = nn.functional.interpolate(x, shape, mode="bicubic", antialias=True).clamp(0, 1)
        made = self.network(pixel_values=(x - self.mean) / self.deviation)
        features: Tensor = (
            made.last_hidden_state[:, 0] if self._spec.family == "dinov2" else made.image_embeds
        )
        return features


def _size(given: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """The side that preprocessing cuts images to; else the network's own."""
    cut = given.get("crop_size") or given.get("size")
    if isinstance(cut, dict):
        cut = cut.get("height") or cut.get("shortest_edge")
    return int(cut or config["image_size"])


def _mapping(value: Any, folder: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(str(folder / CONFIG), "has no vision_config", FIX)
    return value


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > JSON_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes")  # noqa: TRY301
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(str(path), f"cannot be read: {error}", "fetch it again") from error
    return _mapping(content, path.parent)


def _config_class(family: str) -> Any:
    library = _transformers()
    return library.Dinov2Config if family == "dinov2" else library.CLIPVisionConfig


def _network_class(family: str) -> Any:
    library = _transformers()
    return library.Dinov2Model if family == "dinov2" else library.CLIPVisionModelWithProjection


def _transformers() -> Any:
    try:
        import transformers  # noqa: PLC0415  (an extra, and heavy)
    except ImportError as error:
        fix = "pip install 'slimctl[text]'"
        raise UserError(
            "", "transformers is not installed, which runs DINOv2 and CLIP", fix
        ) from error
    return transformers
