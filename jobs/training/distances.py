"""The distances between images that a distillation can use, those from weight files included.

A weight file is read once, by the job; its workers get the weights from the job's work folder.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from slimctl.jobs.base.facts import Facts, FieldError, MissingFile
from slimctl.jobs.base.fingerprint import PublishedFile, require_checksum, require_file
from slimctl.jobs.base.spec import BY_CONTENT
from slimctl.models.flows.spec import HuberDistance, L2Distance
from slimctl.models.networks.memory import lpips_bytes
from slimctl.models.perceptual.cost import VGG_WEIGHT_BYTES, vgg_macs
from slimctl.models.spec import ImageShape, Spec

VGG = PublishedFile(
    "vgg16-397923af.pth", "torchvision's model downloads (https://download.pytorch.org/models)"
)
LINEAR = PublishedFile(
    "weights/v0.1/vgg.pth", "the package lpips (richzhang/PerceptualSimilarity on GitHub)"
)
SMALLEST_PX = 16
"""Below it VGG-16's last level has no pixels left."""


class _Perceptual(Spec):
    """What distances with LPIPS need."""

    weights: Annotated[str, BY_CONTENT]
    """VGG-16's weights as torchvision publishes them: vgg16-397923af.pth."""
    linear: Annotated[str, BY_CONTENT]
    """Weights of the channels: weights/v0.1/vgg.pth of the package lpips."""
    size: int | None = Field(default=64, ge=SMALLEST_PX)
    """Height and width that images are resized to, px; null = as they are."""


class LPIPSDistance(_Perceptual):
    """LPIPS on VGG-16, both images resized to 64 x 64 as SlimFlow's best row does.

    Source: Zhang et al., arXiv 1801.03924; SlimFlow, arXiv 2407.12718, section 5.
    """

    kind: Literal["lpips"] = "lpips"


class LPIPSHuberDistance(_Perceptual):
    """LPIPS + huber_weight * pseudo-Huber / sqrt(number of pixel values).

    Source: Lee et al., arXiv 2405.20320, section 4, which weights the second term by the flow time;
        in a single step from noise that would be 0, so here the weight is a field.
    """

    kind: Literal["lpips_huber"] = "lpips_huber"
    c: float | None = Field(default=None, gt=0.0)
    """Where the pseudo-Huber term turns from quadratic to linear, in units of ||x - y||; null =
    0.00054 sqrt(number of pixel values)."""
    huber_weight: float = Field(default=1.0, ge=0.0)
    """Weight of the pseudo-Huber term, which is then about the root mean square difference."""


ImageDistance = Annotated[
    L2Distance | HuberDistance | LPIPSDistance | LPIPSHuberDistance, Field(discriminator="kind")
]
"""Distance D of two images in distillation."""


def weight_files(distance: ImageDistance) -> Iterator[tuple[str, str, PublishedFile]]:
    """(field, path, what is published) of each weight file that a distance needs."""
    if isinstance(distance, _Perceptual):
        yield "weights", distance.weights, VGG
        yield "linear", distance.linear, LINEAR


def fingerprint(distance: ImageDistance) -> dict[str, str]:
    """Content of the weight files of the field `distance`."""
    from slimctl.jobs.base.fingerprint import content_of_files  # noqa: PLC0415

    return {
        f"distance.{field}": content_of_files([Path(path)], Path(path))
        for field, path, _ in weight_files(distance)
    }


def require_weights(distance: ImageDistance, facts: Facts) -> None:
    """Checks that a distance's files are there.

    Raises:
        MissingFile: it says what to fetch and where to put it.
    """
    missing = []
    for field, path, published in weight_files(distance):
        try:
            require_file(path, f"distance.{field}", published, facts)
        except MissingFile as error:
            missing.append(error)
    if missing:
        what = "; ".join(one.what for one in missing)
        raise MissingFile(missing[0].field, what, "; ".join(one.fix for one in missing), facts)


def check_distance(distance: ImageDistance, made: Facts) -> None:
    """Checks that a distance takes the images.

    Raises:
        FieldError: it does not.
    """
    image = made.image
    if not isinstance(distance, _Perceptual) or image is None:
        return
    if made.latents is not None:
        raise FieldError("distance", "LPIPS compares pixels, not latents", "use l2 or huber")
    if image.channels not in (1, 3):
        what = f"LPIPS takes grey or colour images, not {image.channels} channels"
        raise FieldError("distance", what, "use l2 or huber")
    if distance.size is None and image.size < SMALLEST_PX:
        what = f"images of {image.size} x {image.size} are too small for LPIPS"
        raise FieldError("distance.size", what, f"resize to {SMALLEST_PX} px or more, such as 64")


def distance_macs(distance: ImageDistance, image: ImageShape) -> int:
    """Multiply-adds of a distance's network for one of two images; 0 if it has none."""
    if not isinstance(distance, _Perceptual):
        return 0
    return vgg_macs(image.size if distance.size is None else distance.size)


def distance_bytes(distance: ImageDistance | None, image: ImageShape, batch: int) -> int:
    """Bytes that a distance's network keeps for the gradient in a batch; 0 if it has none."""
    if not isinstance(distance, _Perceptual):
        return 0
    return lpips_bytes(image, batch, distance.size)


def distance_weight_bytes(distance: ImageDistance | None) -> int:
    """Bytes of a distance's weights."""
    return VGG_WEIGHT_BYTES if isinstance(distance, _Perceptual) else 0


def check_content(distance: ImageDistance) -> None:
    """Checks the content of weight files whose names tell a checksum.

    Raises:
        FieldError: a file is not what its name says.
        OSError: it cannot be read.
    """
    for field, path, _ in weight_files(distance):
        require_checksum(path, f"distance.{field}")
