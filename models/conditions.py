"""What a flow is asked for: nothing, a class by its number, or an embedded text.

Numbers travel through draws, manifests and partitions: of a class, or of a prompt in a set. An
embedded text is made of prompts by the encoders of a teacher (`Flow.encode`) and is rows of
tensors. Both are taken apart by `c[rows]`. Numbers of prompts become rows at the border of the
network (`tell`), so that nothing before it needs to know of texts.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch import nn

from slimctl.models import counter_random
from slimctl.models.shapes import Float, Int, Tensor

Module = TypeVar("Module", bound=nn.Module)
NO_TEXT = -1
"""The number of the text that stands for none."""


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

    def vector(self) -> Float[Tensor, "b d"]:
        """One vector for each whole text: `pooled`, else the mean of the tokens that count."""
        return self.mean() if self.pooled is None else self.pooled

    def mean(self) -> Float[Tensor, "b d"]:
        """The mean of the tokens that count."""
        if self.mask is None:
            return self.sequence.mean(1)
        weight = self.mask.to(self.sequence.dtype)[..., None]
        found: Tensor = (self.sequence * weight).sum(1) / weight.sum(1).clamp_min(1.0)
        return found

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
"""Numbers of classes or prompts, embedded texts, or nothing for an unconditional flow."""


@dataclass(frozen=True, eq=False)
class Among:
    """Numbers of prompts, of which each is as likely."""

    count: int
    """Number of prompts in all."""
    numbers: Int[Tensor, " n"] | None = None
    """Those that are meant; None = all."""

    def of(self, place: Int[Tensor, " b"]) -> Int[Tensor, " b"]:
        """The numbers at places 0..len-1."""
        return place if self.numbers is None else self.numbers.to(place.device)[place]

    def __len__(self) -> int:
        return self.count if self.numbers is None else len(self.numbers)


Marginal: TypeAlias = tuple[int, ...] | Among
"""How often labels are drawn: counts by class, () for none, or some prompts equally often."""


def draw_labels(
    marginal: Marginal,
    seed: int,
    stream: int,
    index: Int[Tensor, " b"],
    step: int | Int[Tensor, " b"] = 0,
) -> Int[Tensor, " b"] | None:
    """Labels of the samples `index` from a marginal; None if there are none."""
    if isinstance(marginal, Among):
        draw = counter_random.integers(seed, stream, index, len(marginal), (), step)
        return marginal.of(draw)
    if not marginal:
        return None
    return counter_random.categorical(seed, stream, index, marginal, step)


def ordered_labels(
    marginal: Marginal, seed: int, stream: int, index: Int[Tensor, " b"]
) -> Int[Tensor, " b"] | None:
    """The same, but prompts in an order that has each once before any comes again."""
    if not isinstance(marginal, Among):
        return draw_labels(marginal, seed, stream, index)
    place = counter_random.data_order(seed, index.cpu(), len(marginal))
    return marginal.of(place.to(index.device))


class Texts(ABC):
    """Where the embedded texts of a flow come from. Abstract."""

    numbered: bool = False
    """Whether it has prompts, by number."""

    def __deepcopy__(self, memo: object) -> "Texts":
        """Itself: copies of a network share what it is told."""
        return self

    @abstractmethod
    def encode(
        self, prompts: str | Sequence[str], sizes: Sequence[float | int] | None = None
    ) -> Embedded:
        """Prompts as conditions, one a row, as `Flow.encode`."""

    @abstractmethod
    def null(self) -> Embedded:
        """The text that stands for none, a single row."""

    def rows(self, number: Int[Tensor, " b"]) -> Embedded:
        """The prompts of these numbers, `NO_TEXT` among them, on the device of the numbers.

        Raises:
            ValueError: there are no prompts.
        """
        raise ValueError(
            "this flow is conditional on texts\n  fix: pass flow.encode(prompts) to it"
        )


class GivenTexts(Texts):
    """Texts that are embedded elsewhere, and come as rows. Final."""

    def encode(
        self, prompts: str | Sequence[str], sizes: Sequence[float | int] | None = None
    ) -> Embedded:
        raise ValueError("this network has no encoder of texts")

    def null(self) -> Embedded:
        raise ValueError("this network knows no text by itself")


def tell(network: Module, texts: Texts) -> Module:
    """The network, told the texts themselves whenever it is called with numbers of prompts."""

    def resolve(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        xt, t, *others = given
        if others and isinstance(others[0], Tensor):
            others[0] = texts.rows(others[0])
        return (xt, t, *others)

    network.register_forward_pre_hook(resolve)
    network.texts = texts  # type: ignore[assignment]
    return network
