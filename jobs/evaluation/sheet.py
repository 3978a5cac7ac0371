"""Sheets of samples as PNG."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from slimctl.models.pixels import to_uint8

SMALLEST_TILE_PX = 32
GAP_PX = 2


def save_sheet(images: Tensor, path: Path, columns: int = 10) -> None:
    """Writes images as a grid; arguments as in `tiled`, and the path of the PNG."""
    Image.fromarray(tiled(images, columns)).save(path)


def tiled(images: Tensor, columns: int = 10) -> NDArray[np.uint8]:
    """Images as a grid, small ones enlarged by whole factors: uint8 (height, width, 3).

    Args:
        images: float (N, C, H, W) in [-1, 1], C 1 or 3 (of more channels the first is shown).
        columns: images in a row.
    """
    tiles = to_uint8(images).cpu().permute(0, 2, 3, 1).numpy()
    channels = 3 if tiles.shape[3] == 3 else 1
    tiles = np.repeat(tiles[..., :1], 3, axis=3) if channels == 1 else tiles
    factor = max(1, -(-SMALLEST_TILE_PX // tiles.shape[1]))
    tiles = tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, _ = tiles.shape
    rows = -(-count // columns)
    size = (rows * (height + GAP_PX) + GAP_PX, columns * (width + GAP_PX) + GAP_PX, 3)
    sheet = np.full(size, 255, dtype=np.uint8)
    for number, tile in enumerate(tiles):
        top = GAP_PX + (number // columns) * (height + GAP_PX)
        left = GAP_PX + (number % columns) * (width + GAP_PX)
        sheet[top : top + height, left : left + width] = tile
    return sheet
