"""What the kinds of this package make."""

from slimctl.jobs.base.artifacts import Handle
from slimctl.models.spec import ImageShape


class Mosaic(Handle):
    """Tiles cut out of the images of a data set: `tiles` uint8 (N, C, size, size)."""

    image: ImageShape
    """Shape of a tile."""
    count: int
    """Number of tiles."""
    file: str = "tiles.safetensors"
