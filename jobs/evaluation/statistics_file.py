"""Fréchet statistics that someone else computed: .npz with `mu` and `sigma`, or EDM2's .pkl.

clean-fid, EDM and ADM write these names alike, whatever else is in the file. EDM2's pickle holds
them once per metric, `{"fid": {"mu", "sigma"}, "fd_dinov2": {...}}`. Nothing in such a file says
which feature network they are of: only statistics of the same network, fed the same way, compare.
"""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.restricted_pickle import ArrayRecord, read_pickle

FIX = "name an .npz with mu (D,) and sigma (D, D), as clean-fid and EDM write them, or EDM2's .pkl"
OTHER_NAMES = {"mu": ("mean", "mus", "m"), "sigma": ("cov", "covariance", "sig", "s")}
"""What others call the two."""
ASYMMETRY = 1e-5
"""Largest difference across the diagonal, of the largest entry: rounding of float32 stays below."""


def statistics_width(path: Path) -> int:
    """Length of the feature vectors that a file's statistics are of; reads `mu` alone.

    Raises:
        UserError: it is no such file.
        OSError: it cannot be read.
    """
    return len(_array(_opened(path), path, "mu", dimensions=1))


def read_statistics(path: Path) -> tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]:
    """Mean float64 (D,) and covariance float64 (D, D), symmetric, without NaN or infinity.

    Raises:
        UserError: it is no such file, or the two do not fit together.
        OSError: it cannot be read.
    """
    held = _opened(path)
    mean = _array(held, path, "mu", dimensions=1)
    covariance = _array(held, path, "sigma", dimensions=2)
    if covariance.shape != (len(mean), len(mean)):
        what = f"has mu of {len(mean)} numbers, but sigma of shape {covariance.shape}"
        raise UserError(str(path), what, FIX)
    if np.abs(covariance - covariance.T).max() > ASYMMETRY * np.abs(covariance).max():
        raise UserError(str(path), "has a sigma that is not symmetric", FIX)
    return mean, (covariance + covariance.T) / 2


def _opened(path: Path) -> Mapping[str, Any]:
    """What a file holds by name; of an .npz nothing is read yet."""
    with path.open("rb") as file:
        begin = file.read(2)
    if begin[:1] == b"\x80":  # the first instruction of every binary pickle
        return _from_pickle(path)
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(str(path), "is no .npz file", FIX) from error
    if not isinstance(found, np.lib.npyio.NpzFile):
        shape = " x ".join(map(str, found.shape))
        what = f"holds a single array ({shape}), not mu and sigma"
        if found.ndim == 2:
            fix = (
                "if it holds features, write numpy.savez(path, mu=x.mean(0), sigma=numpy.cov(x.T))"
            )
            raise UserError(str(path), what, fix)
        raise UserError(str(path), what, FIX)
    return found


def _from_pickle(path: Path) -> Mapping[str, Any]:
    """`mu` and `sigma` of EDM2's pickle: those of FID, or of the only metric that there is."""
    content = read_pickle(path, "file of statistics")
    if not isinstance(content, dict):
        what = f"is a pickle of a {type(content).__name__}, not of statistics"
        raise UserError(str(path), what, FIX)
    named = {_text(key): value for key, value in content.items()}
    metrics = {key: value for key, value in named.items() if isinstance(value, dict)}
    chosen = metrics.get("fid")
    if chosen is None and len(metrics) == 1:
        (chosen,) = metrics.values()
    if chosen is None and metrics:
        what = f"has statistics of {', '.join(metrics)}, but none of fid"
        raise UserError(str(path), what, "write the ones that you mean as an .npz: mu, sigma")
    return {_text(key): value for key, value in (chosen or named).items()}


def _text(key: object) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else str(key)


def _array(
    held: Mapping[str, Any], path: Path, name: str, dimensions: int
) -> "np.ndarray[Any, Any]":
    if name not in held:
        raise _without(held, path, name)
    try:
        value = held[name]
        value = value.array() if isinstance(value, ArrayRecord) else value
        array = np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(str(path), f"has an array '{name}' that is no numbers", FIX) from error
    if array.ndim != dimensions or array.size == 0:
        raise UserError(str(path), f"has '{name}' of shape {array.shape}", FIX)
    if not np.isfinite(array).all():
        raise UserError(str(path), f"has NaN or infinity in '{name}'", FIX)
    return array


def _without(held: Mapping[str, Any], path: Path, name: str) -> UserError:
    names = list(held)
    what = f"has no array '{name}', but {', '.join(names) or 'nothing'}"
    meant = [next((n for n in others if n in held), "") for others in OTHER_NAMES.values()]
    if all(meant):
        first, second = meant
        fix = f"write it anew: numpy.savez(path, mu=f['{first}'], sigma=f['{second}'])"
        return UserError(str(path), what, f"{fix}, where f is numpy.load of it; mu (D,)")
    return UserError(str(path), what, FIX)
