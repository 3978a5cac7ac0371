"""What a flow is asked for: nothing, a class by its number, or an embedded text.

Numbers travel through draws, manifests and partitions; an embedded text is made of prompts by the
encoders of a teacher (`Flow.encode`) and is rows of tensors. Both are taken apart by `c[rows]`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from slimctl.models.shapes import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embedded texts, one a row, as the network of a flow takes them."""

    sequence: Float[Tensor, "b n d"]
    """A vector for each token."""
    mask: Int[Tensor, "b n"] | None = None
    """1 where a token counts; None = all do."""
    pooled: Float[Tensor, "b p"] | None = None
    """A vector for the whole text, where the network takes one."""
    extra: Float[Tensor, "b k"] | None = None
    """Further numbers that the network takes, such as the sizes that Stable Diffusion XL is told:
    original height and width, top and left of the crop, height and width wanted, px."""

    def __len__(self) -> int:
        return len(self.sequence)

    def __getitem__(self, rows: Tensor | slice | Sequence[int]) -> "Embedded":
        """The texts of a mask, of numbers or of a slice."""
        return self._each(lambda part: part[rows])

    def to(self, device: torch.device | str) -> "Embedded":
        """The same on a device."""
        return self._each(lambda part: part.to(device))

    def repeat(self, count: int) -> "Embedded":
        """A single text, `count` times; what it holds is not copied.

        Raises:
            ValueError: these are several texts.
        """
        if len(self) != 1:
            raise ValueError(f"these are {len(self)} texts: only a single one can be repeated")
        return self._each(lambda part: part.expand(count, *part.shape[1:]))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Embedded":
        parts = (self.mask, self.pooled, self.extra)
        rest = (None if part is None else change(part) for part in parts)
        return Embedded(change(self.sequence), *rest)


Condition: TypeAlias = Int[Tensor, " b"] | Embedded | None
"""Class numbers, embedded texts, or nothing for an unconditional flow."""
