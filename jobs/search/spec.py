"""What a search varies, how it searches, what it looks for, and the jobs of its trials."""

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from itertools import product
from math import isfinite
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.placeholders import fill, placeholders
from slimctl.jobs.base.refs import ref_types
from slimctl.jobs.base.registry import load_kind, parse_job
from slimctl.jobs.base.spec import SPEED_ONLY, JobSpec, SeededJobSpec
from slimctl.jobs.training.spec import TrainingSpec
from slimctl.models.spec import Spec

SIZES = ("parameters", "macs", "latency_ms")
"""Measured numbers that the network alone tells, before it is trained."""
LEAST_PARALLEL = 4
"""Trials under way on a small machine: while one waits for the disk or a result, another works."""
LEARNING_ROUNDS = 5
"""Least number of rounds of a search that learns: with all its trials under way at once Optuna
would draw at random."""
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


class SearchSpec(SeededJobSpec):
    """A job that chooses among trials: a group of jobs, made once for each values that are tried.

    Placeholders and names are those of a group: `${width}` is the trial's value, a job names its
    siblings. The run adds the jobs of a trial when its values are proposed; the search's own job
    runs when all trials have ended.
    """

    space: dict[str, Dimension] = Field(min_length=1)
    """Variable -> `{choice: [...]}`, `{uniform: [low, high]}`, `{loguniform: [low, high]}` or
    `{randint: [low, high]}`."""
    jobs: dict[str, Any] = Field(min_length=1)
    """Name -> job, with placeholders such as `${width}` in any field."""
    search: Search = Grid()
    """How trials are chosen."""
    subject_to: dict[str, Limit] = Field(default_factory=dict)
    """Limits, `JOB.FIELD: {max: ...}`; sizes beyond them are never trained."""
    scheduler: Asha | None = None
    """`{kind: asha, watch: JOB, grace_period: STEPS}` stops trials whose training falls behind;
    null = every trial runs to its end."""
    parallel: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)], SPEED_ONLY] = "auto"
    """Trials that may be under way at once; their jobs start as devices are free. auto = as many as
    the cluster has GPUs, or cores where it has none, but at least 4; of an Optuna search at most a
    fifth of its trials, so that it learns from some before it proposes others."""

    @property
    @abstractmethod
    def objectives(self) -> tuple[str, ...]:
        """`JOB.FIELD` of each number that is to be small."""

    def needs(self, cluster: Cluster) -> Needs:
        """Nothing: it only looks at what its trials came to."""
        return Needs(cpus=0, gpus=0)

    def at_once(self, cluster: Cluster) -> int:
        """Trials that may be under way at once on a cluster."""
        if self.parallel != "auto":
            return self.parallel
        most = cluster.gpus or cluster.cpus
        if isinstance(self.search, OptunaSearch):
            most = min(most, self.search.trials // LEARNING_ROUNDS)
        return max(LEAST_PARALLEL, most)

    def trial(self, values: Mapping[str, Any]) -> dict[str, JobSpec]:
        """The jobs of one trial by name; they name each other, and jobs outside, as written.

        Args:
            values: variable -> value.

        Raises:
            UserError: an unknown kind.
            pydantic.ValidationError: a value that a job refuses.
        """
        specs = {}
        for name, template in self.jobs.items():
            fields = dict(fill(template, values))
            spec = parse_job(fields.pop("kind"), fields)
            if isinstance(spec, SeededJobSpec) and spec.seed is None:
                spec = spec.model_copy(update={"seed": self.seed})
            specs[name] = spec
        return specs

    def corners(self) -> Iterator[dict[str, JobSpec]]:
        """The jobs of those trials at the ends of every variable whose values go together."""
        for values in corners(self.space):
            try:
                yield self.trial(values)
            except (UserError, ValueError):
                continue  # the check of the trials says why

    def longest(self, scheduler: Asha) -> int:
        """Most optimizer steps of the training that a scheduler watches."""
        jobs = (specs[scheduler.watch] for specs in self.corners())
        steps = (job.steps for job in jobs if isinstance(job, TrainingSpec))
        return max([scheduler.grace_period, *steps])

    def outside(self) -> tuple[str, ...]:
        """What the trials' jobs name besides each other, as written with all choices filled in.

        Raises:
            UserError: an unknown kind, or a job named by a variable without choices.
        """
        found: dict[str, None] = {}
        for template in self.jobs.values():
            infos = load_kind(str(template["kind"])).model_fields.items()
            for field in (name for name, info in infos if ref_types(info.annotation)):
                value = template.get(field)
                for text in value if isinstance(value, list) else [value]:
                    found |= dict.fromkeys(self._named(text) if isinstance(text, str) else ())
        return tuple(name for name in found if name not in self.jobs)

    def _named(self, text: str) -> Iterator[str]:
        """The jobs that a text names, with every combination of its variables' choices."""
        names = list(dict.fromkeys(name for _, name in placeholders(text)))
        for name in names:
            if name in self.space and self.space[name].choice is None:
                what = f"'{text}' names jobs by '{name}', which is a range: they cannot be counted"
                raise UserError("jobs", what, f"give '{name}' a choice")
        if all(name in self.space for name in names):
            for values in product(*(self.space[name].choice or () for name in names)):
                filled = fill(text, dict(zip(names, values, strict=True)))
                if isinstance(filled, str):
                    yield filled


def dimensions(space: Any) -> dict[str, Dimension]:
    """The space that plain data stands for; none where any of it is wrong."""
    try:
        return {str(name): Dimension.model_validate(one) for name, one in space.items()}
    except (ValidationError, AttributeError):
        return {}


def corners(space: Mapping[str, Dimension]) -> list[dict[str, Any]]:
    """Values of the trials at the ends of every variable; none without variables."""
    ends = {name: one.ends() for name, one in space.items()}
    first = {name: values[0] for name, values in ends.items()}
    others = ({**first, name: one} for name, values in ends.items() for one in values[1:])
    return [first, *others] if space else []
