"""What every network family offers to the rest of the program, without importing torch."""

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from slimctl.models.spec import ImageShape, Spec

if TYPE_CHECKING:
    from torch import nn


class NetworkSpec(Spec):
    """The architecture of a network, apart from the shape of its images.

    A subclass declares `kind: Literal["its_name"]`. The module that `build` returns is called as
    `network(xt, t, label)` with xt (B, C, H, W) float, t (B,) float in [0, 1] and label (B,) int64
    or None for an unconditional network, and returns a tensor of xt's shape; xt are pixels about
    [-1, 1]. A network with a `bottleneck`, the layer whose output sums up the image, can judge; one
    that lists its blocks as `recomputable` can compute them again on the way back.
    """

    takes_second_time: ClassVar[bool] = False
    """Whether its network has a `time_layer`, the linear layer whose output is the embedded time,
    and so can be made one of two times."""

    kind: str
    """Family of the network."""

    @property
    def takes_text(self) -> bool:
        """Whether it is conditional on embedded texts, not on classes."""
        return False

    @property
    def text_width(self) -> int | None:
        """Numbers of each token of such a text; None where it takes none."""
        return None

    @abstractmethod
    def build(self, image: ImageShape) -> "nn.Module":
        """Makes the network with freshly initialised weights (torch's global generator).

        Raises:
            ValueError: this architecture cannot be built for images of that shape.
        """

    @abstractmethod
    def check(self, image: ImageShape) -> None:
        """Raises ValueError, saying which field to change, if `build` cannot serve that shape."""

    @property
    def units(self) -> tuple[int, ...]:
        """Channels of the pieces that its widths are multiples of; () = it cannot be slimmed."""
        return ()

    def slimmed(self, width: float, depth: float) -> "NetworkSpec":
        """The same architecture with shares of its channels and layers.

        Args:
            width: share of the channels, in (0, 1].
            depth: share of the layers, in (0, 1].

        Raises:
            ValueError: a network of this family cannot be slimmed.
        """
        raise ValueError(
            f"a {self.kind} cannot be slimmed"
            "\n  fix: give a network of your own, or a teacher that is a song_unet, adm or "
            "diffusers_model"
        )


def label_rows(image: ImageShape, *, null_class: bool) -> int:
    """Labels that a network tells apart: the classes, and one that stands for none of them."""
    return image.classes + (1 if null_class and image.classes else 0)


def level_heights(size: int, levels: int) -> tuple[int, ...]:
    """Heights in pixels from the first (full-size) level to the last.

    Raises:
        ValueError: some level would halve an image of one pixel.
    """
    most = (size - 1).bit_length() + 1
    if levels > most:
        raise ValueError(
            f"images of {size} x {size} px cannot be halved {levels - 1} times"
            f"\n  fix: give at most {most} channel_multipliers, one per level"
        )
    heights = [size]
    for _ in range(levels - 1):
        heights.append((heights[-1] + 1) // 2)
    return tuple(heights)
