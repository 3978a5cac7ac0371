"""What a metric may look at: the contract between `evaluate` and every `measure`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slimctl.models.metrics.gaussians import Gaussian
from slimctl.models.sampling import Sampler
from slimctl.models.shapes import Float, Int, Tensor, UInt8


@dataclass(frozen=True, eq=False)
class Evidence:
    """Samples of a model and real images, as an evaluation has them at its end, on the CPU.

    What is large is compared on the sampler's device.
    """

    real: Float[Tensor, "n d"]
    """Features of some real images in random order, float32."""
    own: Float[Tensor, "m d"]
    """Features of the first samples, float32."""
    labels: Int[Tensor, " m"] | None
    """Labels of these samples; None if unconditional."""
    images: UInt8[Tensor, "k c h w"]
    """The first samples themselves: as many as are looked for among the real images."""
    real_images: Callable[[], Tensor]
    """Reads the real images, uint8 (N, c, h, w): all, or 50,000 drawn from more."""
    reference: Gaussian
    """Of the features of all real images, or from a file of statistics."""
    draws: Sequence[Gaussian]
    """Of the features of all samples of each draw."""
    floor: Float[Tensor, " r"]
    """Fréchet distances to the reference of draws of real images, float64."""
    nearest_rms_real: float
    """Median distance of a real image to the nearest other one, RMS pixels in [-1, 1]."""
    sampler: Sampler
    """The model itself, on its device; without a solver it is a one-step generator."""
    neighbours: int
    """Nearest neighbours that span a manifold of samples."""
    seed: int
    """Of whatever a metric draws."""
