"""Augmentation of images before a critic sees them, real and generated ones alike.

Each transformation is applied to a sample with a probability p, so that the critic cannot learn few
images by heart; below p = 1 the generator still learns images as they are. The geometric ones are
two small matrices per sample, one over rows and one over columns: exact for whole pixels, linear
between them, mirrored at the border, and products of matrices both ways, which are the same bits
every time, where a scattered gradient on a GPU would not be.

Source: Karras et al. (ADA), arXiv 2006.06676, section 2 and appendix B: of its transformations
those along the axes, brightness, contrast and cutout.
"""

import torch

from slimctl.models.shapes import Float, Tensor

NUMBERS = 16
"""Uniform numbers that a sample's augmentation takes: one that decides and one that says how much
for each."""
TRANSLATION = 0.125
"""Largest translation over the height of the image, in each direction."""
SCALE = 0.2
"""Standard deviation of the binary logarithm of the scale."""
BRIGHTNESS = 0.2
"""Standard deviation of what is added to all pixels."""
CONTRAST = 0.5
"""Standard deviation of the binary logarithm of the contrast."""
CUTOUT = 0.5
"""Height of what is cut out over that of the image."""


def augmented(
    images: Float[Tensor, "b c h w"], numbers: Float[Tensor, "b n"], p: float, *, flip: bool
) -> Float[Tensor, "b c h w"]:
    """Images after each transformation that their numbers ask for.

    Args:
        images: in [-1, 1].
        numbers: `NUMBERS` uniform ones in [0, 1) for each image.
        p: probability of each transformation, in [0, 1]; 0 leaves the images as they are.
        flip: whether a mirrored image is as good as the original.
    """
    if p == 0.0:
        return images
    asked, amount = (numbers[:, : NUMBERS // 2] < p), numbers[:, NUMBERS // 2 :]
    images = _moved(images, asked, amount, flip=flip)
    bright = torch.where(asked[:, 4], BRIGHTNESS * _normal(amount[:, 4]), 0.0)
    contrast = torch.where(asked[:, 5], (CONTRAST * _normal(amount[:, 5])).exp2(), 1.0)
    images = images * contrast[:, None, None, None] + bright[:, None, None, None]
    return images * _window(images, asked[:, 6], amount[:, 6:8])


def _moved(images: Tensor, asked: Tensor, amount: Tensor, *, flip: bool) -> Tensor:
    """Translated, scaled and, where that is right, mirrored."""
    height, width = images.shape[-2:]
    scale = torch.where(asked[:, 2], (SCALE * _normal(amount[:, 2])).exp2(), 1.0)
    mirrored = asked[:, 3] & (amount[:, 3] < 0.5) & flip
    shift = torch.where(asked[:, :2], (2.0 * amount[:, :2] - 1.0) * TRANSLATION, 0.0)
    rows = _resampling(height, scale, shift[:, 0] * height)
    columns = _resampling(width, torch.where(mirrored, -scale, scale), shift[:, 1] * width)
    moved: Tensor = rows[:, None] @ images @ columns[:, None].transpose(-1, -2)
    return moved


def _resampling(size: int, scale: Tensor, shift: Tensor) -> Float[Tensor, "b n n"]:
    """The matrix that takes a line of pixels to one that is scaled and shifted, for each sample.

    A pixel at i takes its value from (i - centre) / scale + centre - shift, mirrored at the border.
    """
    index = torch.arange(size, dtype=scale.dtype, device=scale.device)
    centre = (size - 1) / 2
    source = (index - centre) / scale[:, None] + centre - shift[:, None]
    period = 2.0 * size
    folded = (source + 0.5).remainder(period)
    source = torch.minimum(folded, period - folded) - 0.5
    source = source.clamp(0.0, size - 1.0)
    return (1.0 - (source[:, :, None] - index).abs()).clamp_min(0.0)


def _window(images: Tensor, asked: Tensor, centre: Tensor) -> Tensor:
    """0 in a square about a random centre where one is cut out, else 1; (b, 1, h, w)."""
    inside = torch.ones_like(asked)[:, None, None]
    for axis, size in enumerate(images.shape[-2:]):
        index = torch.arange(size, dtype=images.dtype, device=images.device)
        near = ((index + 0.5) / size - centre[:, axis, None]).abs() < CUTOUT / 2
        inside = inside & (near[:, :, None] if axis == 0 else near[:, None, :])
    return 1.0 - (inside & asked[:, None, None]).to(images.dtype)[:, None]


def _normal(uniform: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones in [0, 1)."""
    numbers: Tensor = torch.special.ndtri(uniform.clamp_min(2.0**-25))
    return numbers
