"""Fréchet statistics that someone else computed: .npz with `mu` and `sigma`.

clean-fid and EDM write these names alike. Nothing in such a file says which feature network they
are of: only statistics of the same network, fed the same way, compare.
"""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jobs.base.errors import UserError

FIX = "name an .npz with mu (D,) and sigma (D, D), as clean-fid and EDM write them"


def statistics_width(path: Path) -> int:
    """Length of the feature vectors that a file's statistics are of; reads `mu` alone.

    Raises:
        UserError: it is no such file.
        OSError: it cannot be read.
    """
    with _opened(path) as archive:
        return len(_array(archive, path, "mu", dimensions=1))


def read_statistics(path: Path) -> tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]:
    """Mean float64 (D,) and covariance float64 (D, D), symmetric, without NaN or infinity.

    Raises:
        UserError: it is no such file, or the two do not fit together.
        OSError: it cannot be read.
    """
    with _opened(path) as archive:
        mean = _array(archive, path, "mu", dimensions=1)
        covariance = _array(archive, path, "sigma", dimensions=2)
    if covariance.shape != (len(mean), len(mean)):
        what = f"has mu of {len(mean)} numbers, but sigma of shape {covariance.shape}"
        raise UserError(str(path), what, FIX)
    if np.abs(covariance - covariance.T).max() > 1e-6 * np.abs(covariance).max():
        raise UserError(str(path), "has a sigma that is not symmetric", FIX)
    return mean, (covariance + covariance.T) / 2


def _opened(path: Path) -> Any:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(str(path), "is no .npz file", FIX) from error
    if not isinstance(found, np.lib.npyio.NpzFile):
        raise UserError(str(path), "holds a single array, not mu and sigma", FIX)
    return found


def _array(archive: Any, path: Path, name: str, dimensions: int) -> "np.ndarray[Any, Any]":
    if name not in archive.files:
        held = ", ".join(archive.files) or "nothing"
        raise UserError(str(path), f"has no array '{name}', but {held}", FIX)
    try:
        array = np.asarray(archive[name], dtype=np.float64)
    except (ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(str(path), f"has an array '{name}' that is no numbers", FIX) from error
    if array.ndim != dimensions or array.size == 0:
        raise UserError(str(path), f"has '{name}' of shape {array.shape}", FIX)
    if not np.isfinite(array).all():
        raise UserError(str(path), f"has NaN or infinity in '{name}'", FIX)
    return array
