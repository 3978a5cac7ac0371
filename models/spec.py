"""The base of every frozen description ("spec") in the project.

A spec says what is asked for; it never holds tensors and importing it never imports torch,
so that the command line can read a pipeline in a fraction of a second. What installed packages add
(a group of entry points for each sort of thing, such as `slimctl.networks`) is found here too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticKnownError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint as EntryPoint  # noqa: PLC0414  (for others too)
else:  # `importlib_metadata`, once somebody has imported it, gives a class of its own
    EntryPoint = object

Precision = Literal["float32", "bfloat16"]
"""Of matrix products and convolutions in training; everything else is float32."""
SamplingPrecision = Literal[Precision, "float16"]
"""The same where nothing is learned; float16 has TF32's mantissa, and too few exponents to train
with."""
WHOLE_NUMBERS = 2**63
"""Whole numbers stay below: torch, numpy and every file format here keep 64 bits with a sign."""


@dataclass(frozen=True)
class Marker:
    """What a field means for the key of a result; put it into `Annotated[...]`."""

    meaning: str


ADDED = Marker("came after results were made: at its default it leaves their keys as they were")


class Spec(BaseModel):
    """A frozen pydantic model that refuses unknown keys, NaN and infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*")
    @classmethod
    def _whole_numbers_fit(cls, value: Any) -> Any:
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, int) and one >= WHOLE_NUMBERS:
                raise PydanticKnownError("less_than", {"lt": WHOLE_NUMBERS})
            if isinstance(one, int) and one < -WHOLE_NUMBERS:
                raise PydanticKnownError("greater_than_equal", {"ge": -WHOLE_NUMBERS})
        return value


class ImageShape(Spec):
    """The shape of the images that a data set, flow or generator deals in.

    Pixels are float32 in [-1, 1] wherever they are tensors: shape (B, channels, size, size).
    """

    channels: int = Field(ge=1, le=64)
    """Colour channels: 1 grey, 3 red-green-blue."""
    size: int = Field(ge=1, le=4096)
    """Height and width in pixels; images are square."""
    classes: int = Field(default=0, ge=0)
    """Number of classes of a conditional model; 0 is unconditional. Labels are 0..classes-1."""

    def __str__(self) -> str:
        classes = f" with {self.classes} classes" if self.classes else ""
        return f"{self.size} x {self.size} x {self.channels}{classes}"


@cache
def installed(group: str) -> Mapping[str, EntryPoint]:
    """Name -> entry point of a group."""
    return {entry.name: entry for entry in entry_points(group=group)}


def origin(entry: EntryPoint) -> str:
    """Who adds it, for an error."""
    package = entry.dist.name if entry.dist else "an installed package"
    return f"{package}: entry point {entry.group} {entry.name} = {entry.value}"
