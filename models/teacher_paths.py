"""Where the files of a teacher are, told without importing torch."""

import difflib
from pathlib import Path

SUFFIXES = (".pth", ".pt", ".pkl", ".safetensors")
CONFIG = "config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
SCHEDULER = "scheduler_config.json"


def diffusers_unet(path: Path) -> Path | None:
    """The folder of a diffusers model's network: `path` or its `unet`; None if it is neither."""
    folders = (path, path / "unet")
    return next((folder for folder in folders if (folder / CONFIG).is_file()), None)


def diffusers_scheduler(path: Path) -> Path | None:
    """The config of its scheduler, if there is one."""
    files = (path / SCHEDULER, path / "scheduler" / SCHEDULER)
    return next((file for file in files if file.is_file()), None)


def files_of(path: Path) -> tuple[Path, ...]:
    """The files that reading a teacher reads."""
    unet = diffusers_unet(path)
    if unet is None:
        return (path,)
    weights = next((unet / name for name in WEIGHTS if (unet / name).is_file()), None)
    found = (unet / CONFIG, weights, diffusers_scheduler(path))
    return tuple(file for file in found if file is not None)


def require_path(path: Path) -> None:
    """Raises FileNotFoundError, naming the most similar one, if there is nothing to read."""
    if diffusers_unet(path) is None and not path.is_file():
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
