"""What a caller knows better than the file, and filling a network with the file's tensors."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError
from torch import nn

from models.networks.spec import NetworkSpec
from models.shapes import Tensor
from models.spec import ImageShape

Network = TypeVar("Network", bound=NetworkSpec)


@dataclass(frozen=True)
class Overrides:
    """What is taken instead of what the file says; None and absent fields leave it to the file."""

    ema: bool = True
    """Whether to read averaged weights, where the file has both."""
    size: int | None = None
    """Height and width of the images in pixels."""
    t_start: float | None = None
    """Flow time at which sampling starts."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the network's spec."""

    def __post_init__(self) -> None:
        """Raises ValueError if the size is none."""
        if self.size is not None and self.size < 1:
            raise ValueError(
                f"size is {self.size}: images have at least 1 pixel\n  fix: leave out size"
            )

    def apply(self, spec: Network, image: ImageShape) -> Network:
        """The spec with the overridden fields, for images of a size that the file tells.

        Raises:
            ValueError: there is no such field, it cannot have such a value, or the size differs.
        """
        if self.size not in (None, image.size):
            raise ValueError(
                f"holds a network for images of {image.size} px, not {self.size}"
                "\n  fix: leave out size"
            )
        return self.network_of(spec)

    def network_of(self, spec: Network) -> Network:
        """The spec with the overridden fields; raises ValueError as `apply`."""
        unknown = [name for name in self.network if name not in type(spec).model_fields]
        if unknown:
            known = [name for name in type(spec).model_fields if name != "kind"]
            nearest = difflib.get_close_matches(unknown[0], known, n=1)
            fix = f"use {nearest[0]}" if nearest else f"use some of {', '.join(known)}"
            raise ValueError(
                f"holds a network of kind {spec.kind}, which has no {', '.join(unknown)}"
                f"\n  fix: {fix}"
            )
        try:
            return type(spec).model_validate({**spec.model_dump(), **self.network})
        except ValidationError as error:
            mistakes = [
                f"{'.'.join(map(str, mistake['loc']))} is {mistake['input']!r}: {mistake['msg']}"
                for mistake in error.errors()
            ]
            raise ValueError("\n  ".join(["cannot be read so:", *mistakes])) from error


def filled(network: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Puts float32 weights into a network on the meta device; frozen, in evaluation mode.

    Args:
        network: what to fill; it is changed and returned.
        weights: exactly the network's, contiguous; they are taken over, not copied.
    """
    network.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    return network.eval().requires_grad_(requires_grad=False)
