"""A network said by the teacher that it is a slimmer copy of, without importing torch."""

from typing import TYPE_CHECKING, Literal, NoReturn

from pydantic import Field

from slimctl.models.networks.spec import NetworkSpec

if TYPE_CHECKING:
    from torch import nn

    from slimctl.models.spec import ImageShape


class SlimSpec(NetworkSpec):
    """A teacher's network with a share of its channels and of its layers.

    Channels are rounded to what the family can have, heads of attention stay whole where their
    number allows it. U-Nets lose blocks of each level (or, where these are deep, transformer layers
    of each block), transformers layers, evenly between the first and the last.

    Source:
        Kim et al. (BK-SDM), arXiv 2305.15798 (blocks); Fang et al. (Diff-Pruning), arXiv
        2305.10924: that weights are inherited matters more than which.
    """

    kind: Literal["slim"] = "slim"
    """Family of the network: the teacher's."""
    width: float = Field(default=1.0, gt=0, le=1)
    """Share of the channels, 0..1."""
    depth: float = Field(default=1.0, gt=0, le=1)
    """Share of the layers, 0..1; at least one stays."""
    start: Literal["copy", "slice", "random"] = "slice"
    """First weights: `slice` takes the teacher's leading channels of the layers that stay, `copy`
    is the same for full width, `random` takes nothing."""

    def of(self, teacher: NetworkSpec) -> NetworkSpec:
        """The plain architecture.

        Raises:
            ValueError: the teacher's family cannot be slimmed so, or a copy is narrower.
        """
        if self.start == "copy" and self.width != 1.0:
            raise ValueError(
                f"start copy takes whole layers, and width is {self.width:g}"
                "\n  fix: set start: slice, or width: 1"
            )
        return teacher.slimmed(self.width, self.depth)

    def check(self, image: "ImageShape") -> NoReturn:
        raise ValueError(
            "a slim network is of a teacher, and this names none"
            "\n  fix: write network: {slim_of: TEACHER, width: ..., depth: ...}"
        )

    def build(self, image: "ImageShape") -> "nn.Module":
        self.check(image)


def kept_layers(count: int, kept: int) -> tuple[int, ...]:
    """Which of `count` layers stay, evenly from the first to the last; one alone is the first."""
    if kept == 1:
        return (0,)
    return tuple((2 * at * (count - 1) + kept - 1) // (2 * (kept - 1)) for at in range(kept))


def share(count: int, part: float) -> int:
    """A share of a number of things, rounded, at least 1."""
    return max(1, int(count * part + 0.5))
