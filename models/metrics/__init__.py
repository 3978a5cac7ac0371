"""What is measured: quality of samples, straightness of flows, cost of networks.

A metric is declared once, in `METRICS`: what it is called, how it reads and which way is better.
Evaluations, the report, MLflow, tables, the model card and the Pareto front go by that. A new one
is a file with its `measure` and a line here; other packages add theirs through the entry-point
group `slimctl.metrics` (`name = module:METRIC`). What takes long, or few ask for, is measured on
request. Nothing here imports torch.
"""

from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal

from pydantic import Field

from slimctl.models.spec import Spec

ENTRY_POINTS = "slimctl.metrics"
"""Group in which a package names its metrics."""


class Metric(Spec):
    """What every reader of a measured number has to know of it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    """Its field in a quality report and in `--json`, its name in MLflow and on the front."""
    label: str
    """Head of its column."""
    better: Literal["lower", "higher"] | None
    """Which of two values is better; None = it ranks nothing, and is no axis of a front."""
    measure: str = ""
    """`module:function` that takes an `Evidence` and returns field -> number or None, for its own
    fields; "" = the job that evaluates measures it itself."""
    version: int = Field(default=1, ge=0)
    """Part of a result's key: what was measured without the metric is measured again. A number that
    would come out differently raises it."""
    format: str = Field(default=".3f", pattern=r"^(,?\.[0-9]f|g|short)$")
    """As Python formats it; g = whole numbers from 100 on, short = three digits and a letter."""
    unit: str = ""
    column: int | None = 80
    """Place of its column in tables, rising; None = in no table."""
    cost: bool = False
    """Whether it is of the network and the machine: without an interval over seeds."""
    interval: bool = False
    """Whether the report has its own 95 % interval, as `NAME_low` and `NAME_high`."""
    beside: tuple[str, ...] = ()
    """Further numbers of the report that belong to it and are tracked with it."""
    whole: str = ""
    """Number of the report that it is a part of: `10 of 50`."""
    on_request: bool = False
    """Whether only evaluations that name it in `metrics` have it."""
    undisturbed: str = ""
    """Flag of the report; where it is false, something else computed during the measurement."""

    @property
    def fields(self) -> tuple[str, ...]:
        """All of its numbers in a report."""
        ends = (f"{self.name}_low", f"{self.name}_high") if self.interval else ()
        return (self.name, *ends, *self.beside)

    @property
    def title(self) -> str:
        """The label with the unit, for an axis."""
        return f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def decimals(self) -> int | None:
        """Digits behind the point; None where the format does not say."""
        return int(self.format[-2]) if self.format.endswith("f") else None

    def text(self, value: float, decimals: int | None = None) -> str:
        """The number as people read it, with its unit.

        Args:
            value: what was measured.
            decimals: digits behind the point; None = as the format says.
        """
        if self.format == "short":
            number = short_count(value)
        elif self.format == "g":
            number = f"{value:g}" if value < 100 else f"{value:.0f}"
        else:
            form = self.format if decimals is None else f"{self.format[:-2]}{decimals}f"
            number = f"{value:{form}}"
        return f"{number} {self.unit}" if self.unit else number


_FRECHET = "slimctl.models.metrics.frechet:measure"
_DENSITY = "slimctl.models.metrics.density_coverage:measure"
_MANIFOLD = "slimctl.models.metrics.precision_recall:measure"
_first = partial(Metric, version=0)
"""A metric that every evaluation ever had, and so in no key."""
_asked = partial(Metric, on_request=True, column=None)
METRICS: tuple[Metric, ...] = (
    _first(
        name="fid", label="FID", better="lower", format=".2f", column=40, measure=_FRECHET,
        beside=("fids", "fid_real", "fid_real_sd"),
    ),
    _first(
        name="kid", label="KID", better="lower", column=50, interval=True,
        measure="slimctl.models.metrics.kernel:measure",
    ),
    _first(name="precision", label="precision", better="higher", column=60, measure=_MANIFOLD),
    _first(name="recall", label="recall", better="higher", column=70, measure=_MANIFOLD),
    _first(name="nfe", label="NFE", better="lower", format="g", column=30, cost=True),
    _first(
        name="parameters", label="parameters", better="lower", format=",.0f", column=10, cost=True,
        beside=("parameters_total", "decoder_parameters"), whole="parameters_total",
    ),
    _first(
        name="macs", label="MACs", better="lower", format="short", column=20, cost=True,
        beside=("decoder_macs",),
    ),
    _first(
        name="sample_macs", label="MACs x NFE", better="lower", format="short", column=None,
        cost=True,
    ),
    _first(
        name="latency_ms", label="latency", better="lower", format=".2f", unit="ms", column=90,
        cost=True, beside=("latency_p90_ms", "routing_us", "decode_ms"),
        undisturbed="latency_quiet",
    ),
    _first(
        name="straightness", label="straightness", better="lower", column=None,
        measure="slimctl.models.metrics.straightness:measure",
    ),
    _first(
        name="nearest_rms", label="nearest image", better=None, column=None,
        measure="slimctl.models.metrics.nearest:measure", beside=("nearest_rms_real",),
    ),
    _asked(
        name="fd_infinity", label="FD at infinity", better="lower", format=".2f", interval=True,
        measure="slimctl.models.metrics.fd_infinity:measure",
    ),
    _asked(
        name="fid_kept", label="FID, resampled", better="lower", format=".2f", interval=True,
        beside=("fid_resamples",), measure="slimctl.models.metrics.bootstrap:measure",
    ),
    _asked(name="density", label="density", better="higher", measure=_DENSITY),
    _asked(name="coverage", label="coverage", better="higher", measure=_DENSITY),
)  # fmt: skip


@cache
def metrics() -> Mapping[str, Metric]:
    """Name -> metric: ours, then those of installed packages.

    Raises:
        ValueError: an installed package adds what is no metric, or a number that is taken.
    """
    known = {metric.name: metric for metric in METRICS}
    taken = {field for metric in METRICS for field in metric.fields}
    for entry in entry_points(group=ENTRY_POINTS):
        metric = _load(entry)
        if clash := sorted(taken & set(metric.fields)):
            raise ValueError(
                f"{_origin(entry)}: there is a number '{clash[0]}' already\n"
                "  fix: give the metric another name"
            )
        known[metric.name] = metric
        taken |= set(metric.fields)
    return known


def columns() -> list[Metric]:
    """The metrics that tables have, in the order of their columns."""
    placed = [(one.column, one) for one in metrics().values() if one.column is not None]
    return [metric for _, metric in sorted(placed, key=lambda item: item[0])]


def requested() -> tuple[str, ...]:
    """Names of the metrics that are measured only where they are asked for."""
    return tuple(name for name, one in metrics().items() if one.on_request)


def _chosen(asked: Collection[str]) -> list[Metric]:
    """The metrics of an evaluation that asks for some of those on request."""
    return [one for one in metrics().values() if not one.on_request or one.name in asked]


def take(evidence: object, asked: Collection[str] = ()) -> dict[str, Any]:
    """The numbers of all metrics that have a `measure`, by their field in a report.

    Args:
        evidence: what they look at.
        asked: metrics on request that are wanted, too; one that is measured together with them
            comes along.

    Raises:
        ValueError: a metric returned other numbers than it declares.
    """
    wanted = {one.measure for one in _chosen(asked) if one.measure}
    declared: dict[str, set[str]] = {}
    for one in metrics().values():
        if one.measure in wanted:
            declared.setdefault(one.measure, set()).update(one.fields)
    found: dict[str, Any] = {}
    for place, fields in declared.items():
        module, _, name = place.partition(":")
        measure: Callable[[object], Mapping[str, Any]] = getattr(import_module(module), name)
        made = measure(evidence)
        if set(made) != fields:
            raise ValueError(
                f"{place} returned {sorted(made)}, but its metrics declare {sorted(fields)}\n"
                "  fix: return just these numbers"
            )
        found |= made
    return found


def added(asked: Collection[str] = ()) -> dict[str, str]:
    """The metrics that not every evaluation has, with their versions: part of a result's key."""
    return {f"metric {one.name}": str(one.version) for one in _chosen(asked) if one.version}


def short_count(number: float | int) -> str:  # noqa: PYI041  (a checked int is no float)
    """A large count with three digits and a letter: 4.46 M."""
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * factor:  # what rounds up to the next letter takes it
            return f"{number / factor:.3g} {letter}"
    return f"{number:.0f}"


def _load(entry: Any) -> Metric:
    """The metric of an entry point, of `importlib.metadata` or its backport."""
    metric = entry.load()
    if not isinstance(metric, Metric):
        raise ValueError(  # noqa: TRY004  (as every mistake of a package here)
            f"{_origin(entry)} is no Metric\n  fix: name the declaration"
        )
    if metric.name != entry.name or not (metric.version and metric.measure):
        raise ValueError(
            f"{_origin(entry)}: the metric is called {metric.name!r}, version {metric.version}, "
            f"measured by {metric.measure!r}\n  fix: give the entry point the metric's name, and "
            "the metric a version of 1 or more and a measure"
        )
    return metric


def _origin(entry: Any) -> str:
    package = entry.dist.name if entry.dist else "an installed package"
    return f"{package}: entry point {ENTRY_POINTS} {entry.name} = {entry.value}"
