"""Where the files of a teacher are, without importing torch."""

import difflib
import json
import re
from pathlib import Path

from slimctl.models.text_files import encoder_files

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".pkl", ".safetensors")
DESCRIPTION = "model.json"
"""In a folder that `slimctl export` wrote, what its weights are of."""
CONFIG = "config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
SCHEDULER = "scheduler_config.json"
INDEX = "model_index.json"
"""In the folder of a whole pipeline of diffusers, the classes of its parts."""
TRANSFORMER, AUTOENCODER = "transformer", "vae"
"""Folders of a pipeline that makes latents: its network, if that is no `unet`, and the decoder."""
LATENT_PARTS = (TRANSFORMER, AUTOENCODER, "vqvae")
"""Folders that only such pipelines have."""
PLAIN, AVERAGED = "unet", "unet_ema"
"""Folders of a training checkpoint of diffusers: the weights trained and their averages."""
NON_EMA, EMA = "non_ema", "ema"
"""Variants that say the same."""
_VARIANT = re.compile(
    r"diffusion_pytorch_model(?:\.(?P<of_file>[^.]+))?\.(?:safetensors|bin)"
    r"(?P<index>\.index(?:\.(?P<of_index>[^.]+))?\.json)?"
)


def diffusers_unet(path: Path, *, ema: bool = True) -> Path | None:
    """The folder of a diffusers model's network: `path` or one in it; None if it is neither."""
    folders = (
        (path, path / AVERAGED, path / PLAIN) if ema else (path, path / PLAIN, path / AVERAGED)
    )
    return next((folder for folder in folders if (folder / CONFIG).is_file()), None)


def latent_network(path: Path) -> Path | None:
    """The folder of the network of a pipeline that makes latents; None if it is no such pipeline.

    It is one if it has a part that decodes latents, or a transformer.
    """
    if not (path / INDEX).is_file() or not any((path / part).is_dir() for part in LATENT_PARTS):
        return None
    transformer = path / TRANSFORMER
    return transformer if transformer.is_dir() else path / PLAIN


def autoencoder_folder(path: Path) -> Path | None:
    """The folder of an autoencoder: `path`, or the one in a pipeline; None if it is neither."""
    folders = (path / AUTOENCODER,) if (path / INDEX).is_file() else (path,)
    return next((folder for folder in folders if (folder / CONFIG).is_file()), None)


def weight_variants(folder: Path) -> frozenset[str]:
    """Variants of the weights in a folder, such as `fp16`; "" is the unnamed one."""
    names = (_VARIANT.fullmatch(entry.name) for entry in folder.iterdir())
    found = (match["of_index"] if match["index"] else match["of_file"] for match in names if match)
    return frozenset(name or "" for name in found if not re.search(r"-\d+-of-\d+$", name or ""))


def chosen_variant(folder: Path, *, ema: bool, variant: str | None) -> str | None:
    """The variant to read; None where the files leave several to choose from, or none."""
    found = weight_variants(folder)
    if variant is not None:
        return variant if variant in found else None
    preferred = (EMA, "") if ema else (NON_EMA, "", EMA)
    first = next((name for name in preferred if name in found), None)
    others = found - {NON_EMA}
    return next(iter(others)) if first is None and len(others) == 1 else first


def weight_files(folder: Path, variant: str) -> tuple[Path, ...]:
    """The files of a variant, as diffusers looks for them: an index and its shards, else one file.

    Raises:
        ValueError: the index cannot be read.
    """
    middle = f".{variant}" if variant else ""
    for name in WEIGHTS:
        index = folder / f"{name}.index{middle}.json"
        if index.is_file():
            return (index, *(folder / shard for shard in _shards(index)))
        stem, _, ending = name.rpartition(".")
        if (folder / f"{stem}{middle}.{ending}").is_file():
            return (folder / f"{stem}{middle}.{ending}",)
    return ()


def _shards(index: Path) -> list[str]:
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        if all(Path(shard).name == shard for shard in shards):
            return shards
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(f"{index.name} is no readable index\n  fix: copy it again") from error
    raise ValueError(f"{index.name} names files outside its folder\n  fix: copy it again")


def diffusers_scheduler(path: Path) -> Path | None:
    """The config of its scheduler, if there is one."""
    files = (path / SCHEDULER, path / "scheduler" / SCHEDULER)
    return next((file for file in files if file.is_file()), None)


def files_of(path: Path, *, ema: bool = True, variant: str | None = None) -> tuple[Path, ...]:
    """The files that reading a teacher reads, as far as they are there."""
    if (path / DESCRIPTION).is_file():
        members = (path / name for name in _member_files(path / DESCRIPTION))
        return (path / DESCRIPTION, *(file for file in members if file.is_file()))
    network = latent_network(path)
    if network is not None:
        found = [path / INDEX, *files_in(network, ema=ema, variant=variant)]
        found += files_in(path / AUTOENCODER, ema=ema, variant=variant)
        found += encoder_files(path)[1:]  # the index is there already
    else:
        unet = diffusers_unet(path, ema=ema)
        if unet is None:
            return (path,)
        found = files_in(unet, ema=ema, variant=variant)
    return tuple(file for file in (*found, diffusers_scheduler(path)) if file and file.is_file())


def files_in(folder: Path, *, ema: bool = True, variant: str | None = None) -> list[Path]:
    """The config and the weights in a folder of diffusers, as far as they are there."""
    if not folder.is_dir():
        return []
    chosen = chosen_variant(folder, ema=ema, variant=variant)
    try:
        weights = () if chosen is None else weight_files(folder, chosen)
    except ValueError:  # reported by whoever reads them
        weights = ()
    return [folder / CONFIG, *weights]


def _member_files(description: Path) -> list[str]:
    try:
        members = json.loads(description.read_text())["members"]
        return [Path(str(member["file"])).name for member in members]
    except (ValueError, KeyError, TypeError):  # reported by whoever reads it
        return []


def require_path(path: Path) -> None:
    """Raises FileNotFoundError, naming the most similar one, if there is nothing to read."""
    known = (path / DESCRIPTION).is_file() or diffusers_unet(path) is not None
    known = known or latent_network(path) is not None
    if not known and not path.is_file():
        raise FileNotFoundError(_where_it_might_be(path))


def _where_it_might_be(path: Path) -> str:
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.suffix in SUFFIXES)
        fix = f"give a file in it: {', '.join(inside[:5])}" if inside else "give a file"
        return f"{path}: is a folder, not a checkpoint\n  fix: {fix}"
    existing, missing = path.parent, path.name
    while not existing.is_dir():
        existing, missing = existing.parent, existing.name
    names = [entry.name for entry in existing.iterdir()]
    nearest = difflib.get_close_matches(missing, names, n=1, cutoff=0.5)
    fix = f"use {existing / nearest[0]}" if nearest else f"look in {existing.resolve()}"
    return f"{path}: there is no such file\n  fix: {fix}"
