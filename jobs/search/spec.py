"""What a sweep varies, how it searches, and what it looks for."""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from slimctl.models.spec import Spec

Positive = Annotated[float, Field(gt=0)]


class Dimension(Spec):
    """The values of one variable: exactly one of the fields is given. Bounds are included."""

    choice: tuple[Any, ...] | None = Field(default=None, min_length=1)
    """Some values of any type."""
    uniform: tuple[float, float] | None = None
    """Any number between two."""
    loguniform: tuple[Positive, Positive] | None = None
    """Any number between two, evenly over its logarithm."""
    randint: tuple[int, int] | None = None
    """Any whole number between two."""

    @model_validator(mode="before")
    @classmethod
    def _is_no_bare_value(cls, data: Any) -> Any:
        if isinstance(data, list | tuple | int | float | str):
            values = list(data) if isinstance(data, list | tuple) else [data]
            what = f"{data} does not say how to choose"
            raise ValueError(f"{what}\n  fix: write '{{choice: {values}}}'")  # noqa: TRY004
        return data

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give one of choice, uniform, loguniform and randint")
        self._check_choice()
        low, high = self.bounds() if self.choice is None else (0.0, 1.0)
        if low >= high:
            raise ValueError(
                f"the range from {low:g} to {high:g} is empty\n  fix: put the lower one first"
            )
        return self

    def _check_choice(self) -> None:
        """Checks that the choices differ: equal ones would be one trial under two names."""
        first: dict[str, Any] = {}
        for value in self.choice or ():
            try:
                meant = json.dumps(_meant(value), sort_keys=True, allow_nan=False)
            except ValueError:
                what = f"choice has {value}, which is no finite number"
                raise ValueError(f"{what}\n  fix: remove it") from None
            if meant in first:
                raise ValueError(
                    f"choice has two equal values, {first[meant]} and {value}\n"
                    "  fix: remove one of them"
                )
            first[meant] = value

    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of a range."""
        found = self.uniform or self.loguniform or self.randint
        assert found is not None
        return found

    def ends(self) -> list[Any]:
        """All choices, or the bounds of a range."""
        return list(self.bounds() if self.choice is None else self.choice)


def _meant(value: Any) -> Any:
    """A value as fields read it, so that what they take for equal is equal: 1, 1.0 and "1"."""
    if isinstance(value, Mapping):
        return {str(key): _meant(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_meant(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return value
    exact = isinstance(value, int) and int(number) != value
    return value if exact or (isinstance(value, str) and not isfinite(number)) else number


class Grid(Spec):
    """Every combination of the choices."""

    kind: Literal["grid"] = "grid"


class Random(Spec):
    """Trials drawn independently; asking for more later keeps the first ones."""

    kind: Literal["random"] = "random"
    trials: int = Field(ge=1)
    """Number of trials."""


class OptunaSearch(Spec):
    """Optuna's TPE, which learns from the trials before."""

    kind: Literal["optuna"] = "optuna"
    trials: int = Field(ge=1)
    """Number of trials."""


Search = Annotated[Grid | Random | OptunaSearch, Field(discriminator="kind")]


class Asha(Spec):
    """Asynchronous successive halving: trials whose training falls behind are stopped.

    After `grace_period` steps, and again after every `reduction_factor` times as many, a trial goes
    on if its score is among the best 1 / `reduction_factor` of those that came so far before it.

    Source:
        Li et al., A system for massively parallel hyperparameter tuning, arXiv 1810.05934.
    """

    kind: Literal["asha"] = "asha"
    watch: str = Field(min_length=1)
    """Job of the trials whose scores decide; it needs `data`, and takes one every `score_every`
    steps."""
    grace_period: int = Field(ge=1)
    """Optimizer steps before any trial is stopped."""
    reduction_factor: float = Field(default=3, gt=1)
    """Of the trials that come this far, one in so many goes on."""


class Limit(Spec):
    """Bounds of a measured number."""

    max: float | None = None
    """Highest value allowed; null = any."""
    min: float | None = None
    """Lowest value allowed; null = any."""

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.max is None and self.min is None:
            raise ValueError("give max or min")
        return self

    def excess(self, value: float) -> float:
        """By how much a value is outside; 0 if it is inside."""
        above = value - self.max if self.max is not None else 0.0
        below = self.min - value if self.min is not None else 0.0
        return max(above, below, 0.0)

    def __str__(self) -> str:
        low = f"at least {self.min:g}" if self.min is not None else ""
        high = f"at most {self.max:g}" if self.max is not None else ""
        return " and ".join(part for part in (low, high) if part)
