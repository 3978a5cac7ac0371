"""Results that differ only in their seeds become one row with mean and interval.

Fréchet distances are pooled and compared only where they were taken in the same way.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slimctl.jobs.base.artifacts import FidProtocol, QualityReport
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.keys import canonical_json, split_id
from slimctl.jobs.base.registry import nearest
from slimctl.models.metrics import Metric, metrics
from slimctl.models.metrics.interval import Interval, mean_interval
from slimctl.orchestrator.pipeline.groups import Origin, origin_of, split_iteration
from slimctl.orchestrator.pipeline.operations import Price
from slimctl.orchestrator.results.collect import Found, Missing, Result
from slimctl.orchestrator.results.lineage import Lineage

SEED = "seed"
AXES = ("fid", "latency_ms")
"""Metrics that the Pareto front is of, unless others are asked for: quality against what a sample
costs, all evaluations, so that ten steps do not hide one of the same network."""
ANYWHERE = ("fid", "sample_macs")
"""The same where latencies were measured on unlike devices and do not compare."""
MAX_NAMED = 3


@dataclass(frozen=True)
class Number:
    """A measured number, or the mean of several with half their 95 % interval over seeds."""

    mean: float
    half: float | None = None


@dataclass(frozen=True)
class Row:
    """One result or more that differ in nothing but seeds, under what their names share."""

    name: str
    results: tuple[Result, ...]
    numbers: Mapping[str, Number]
    """Metric -> its mean, where every result has it."""
    settings: Mapping[str, Any]
    """What shaped them, seeds left out."""
    shape: str
    """The kinds they were made by."""
    hours: Mapping[str, float]
    """Device hours behind the models, by kind of device; the mean over seeds."""
    front: bool = False
    """Whether no other row is better in one axis of the front and as good in the others."""
    tied_front: bool = False
    """Whether the intervals leave that open: no row that beats it is better beyond its interval, or
    one that is cheaper is not worse beyond it."""
    above_first: Interval | None = None
    """FID less that of the first row at the same seeds; None with fewer than two in common."""

    @property
    def tied(self) -> bool:
        """Whether the seeds do not tell its FID from that of the first row."""
        above = self.above_first
        return above is not None and above.low <= 0 <= above.high


@dataclass(frozen=True)
class Comparison:
    """Rows in order of their FID, the best first, and what they cost together."""

    rows: tuple[Row, ...]
    differing: tuple[str, ...]
    """Settings in which rows of one shape differ."""
    protocol: Mapping[str, str]
    """How every FID was taken."""
    spent: Mapping[str, float]
    """Device hours of all models, what they share counted once."""
    saved: Mapping[str, float]
    """Device hours that would have been spent on what they share."""
    missing: tuple[Missing, ...]
    metrics: tuple[Metric, ...]
    """Those that any row has, of those that tables show."""
    axes: tuple[Metric, ...]
    """Those that the front is of."""
    price: Price | None = None
    """What the hours cost; None = not known."""


def compare(
    found: Found, lineage: Lineage, front: Sequence[str] = (), price: Price | None = None
) -> Comparison:
    """Pools and sorts at least one result, and counts what they took.

    `front` names the metrics of the front; () = quality against what a sample costs. `price` is
    that of an hour.

    Raises:
        UserError: their FIDs were not taken in the same way, or the front cannot be of those
            metrics.
    """
    check_protocols({result.name: result.report for result in found.results})
    several = len({result.run for result in found.results}) > 1
    pools: dict[str, list[Result]] = {}
    settings = {result.name: _settings(result, lineage) for result in found.results}
    for result in found.results:
        alike = [lineage.shape(result.report.id), _without_seeds(settings[result.name])]
        pools.setdefault(canonical_json(alike), []).append(result)
    rows = [_row(pool, settings, lineage, several=several) for pool in pools.values()]
    axes = _axes(front or default_axes([result.report for result in found.results]), rows)
    noise = {result.name: _seeds(settings[result.name]) for result in found.results}
    rows = with_front(sorted(rows, key=lambda row: row.numbers["fid"].mean), axes, noise)
    rows = rows[:1] + [replace(row, above_first=_above(rows[0], row, noise)) for row in rows[1:]]
    models = [lineage.behind(result.report.model) for result in found.results]
    spent = lineage.hours(set().union(*models))
    alone: dict[str, float] = {}
    for behind in models:
        for device, hours in lineage.hours(behind).items():
            alone[device] = alone.get(device, 0.0) + hours
    saved = {device: hours - spent[device] for device, hours in alone.items()}
    protocol = fid_protocol(found.results[0].report)
    return Comparison(
        rows=tuple(rows),
        differing=differing_settings(rows),
        protocol=protocol,
        spent=spent,
        saved=saved,
        missing=tuple(found.missing),
        metrics=tuple(
            one
            for one in metrics().values()
            if (one.column is not None or one in axes)
            and any(one.name in row.numbers for row in rows)
        ),
        axes=axes,
        price=price,
    )


def default_axes(reports: Sequence[QualityReport]) -> tuple[str, ...]:
    """What the front is of unless it is asked for: latency where all are of one kind of device."""
    return AXES if len({(one.device, one.threads) for one in reports}) < 2 else ANYWHERE


def _axes(names: Sequence[str], rows: Sequence[Row]) -> tuple[Metric, ...]:
    """The metrics of a front, at least two that rank and that some row has."""
    known = {name: metric for name, metric in metrics().items() if metric.better}
    for name in names:
        if name not in known:
            raise UserError(f"--front {name}", "is no metric that ranks", nearest(name, known))
        if not any(name in row.numbers for row in rows):
            raise UserError(f"--front {name}", "no row has it", "evaluate again, or name another")
    if len(set(names)) < 2:
        raise UserError(f"--front {','.join(names)}", "is one metric", "name two: fid,latency_ms")
    return tuple(known[name] for name in dict.fromkeys(names))


def is_seed(setting: str) -> bool:
    """Whether a dotted setting is the seed of a job."""
    return setting.rpartition(".")[2] == SEED


def _without_seeds(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not is_seed(name)}


def _seeds(settings: Mapping[str, Any]) -> str:
    """What two results have in common that share their random numbers.

    The seed of the samples' noise, and all that occur in the jobs behind it: those of one iteration
    over seeds have the same ones, whatever the jobs are called.
    """
    occurring = {canonical_json(value) for name, value in settings.items() if is_seed(name)}
    return canonical_json([settings.get(SEED), sorted(occurring)])


def _above(first: Row, row: Row, noise: Mapping[str, str]) -> Interval | None:
    """FID of a row less that of the first, at the seeds that both have, each once."""
    ours, theirs = (_fid_by_seeds(one, noise) for one in (row, first))
    shared = [key for key in ours if key in theirs]
    if len(shared) < 2:
        return None
    return mean_interval([ours[key] - theirs[key] for key in shared])


def _fid_by_seeds(row: Row, noise: Mapping[str, str]) -> dict[str, float]:
    fids: dict[str, list[float]] = {}
    for result in row.results:
        fids.setdefault(noise[result.name], []).append(result.report.fid)
    return {key: values[0] for key, values in fids.items() if len(values) == 1}


def _settings(result: Result, lineage: Lineage) -> dict[str, Any]:
    """What shaped a model and its measurement; the protocol of the FID is reported by itself."""
    report = result.report
    own = lineage.settings(report.id)
    kept = {key: value for key, value in own.items() if not key.startswith(("data.", "features."))}
    where = {"device": report.device, "threads": report.threads}
    return {**kept, **where} if lineage.manifest(report.id) else kept


def _row(
    pool: Sequence[Result],
    settings: Mapping[str, Mapping[str, Any]],
    lineage: Lineage,
    *,
    several: bool,
) -> Row:
    numbers: dict[str, Number] = {}
    for metric in metrics().values():
        values = [value for one in pool if (value := one.report.number(metric.name)) is not None]
        if len(values) == len(pool):
            numbers[metric.name] = _mean(values, own_half(metric, pool[0].report))
    each = [lineage.hours(lineage.behind(one.report.model)) for one in pool]
    devices = {device for hours in each for device in hours}
    hours = {one: sum(spent.get(one, 0.0) for spent in each) / len(pool) for one in sorted(devices)}
    kept, shape = _without_seeds(settings[pool[0].name]), lineage.shape(pool[0].report.id)
    return Row(_name(pool, several=several), tuple(pool), numbers, kept, shape, hours)


def own_half(metric: Metric, report: QualityReport) -> float | None:
    """Half the 95 % interval that a report has of a number; None = it has none."""
    low, high = (report.number(f"{metric.name}_{end}") for end in ("low", "high"))
    return None if low is None or high is None else (high - low) / 2


def _mean(values: Sequence[float], alone: float | None) -> Number:
    """Mean over seeds; one value has the interval of its own estimate."""
    if len(values) < 2:
        return Number(values[0], alone)
    found = mean_interval(values)
    return Number(found.mean, (found.high - found.low) / 2)


def _name(pool: Sequence[Result], *, several: bool) -> str:
    """What pooled jobs have in common; with the run, where there are several."""
    runs = list(dict.fromkeys(result.run for result in pool))
    prefix = f"{runs[0]}/" if several and len(runs) == 1 else ""
    origins = [origin_of(result.job) for result in pool]
    known = [origin for origin in origins if origin is not None]
    if len(known) < len(pool) or len({origin.short for origin in known}) > 1:
        jobs = list(dict.fromkeys(result.job for result in pool))
        more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
        return f"{prefix}{jobs[0]}{more}"
    labels = [set(split_iteration(origin.iteration)) for origin in known]
    shared = [
        one for one in split_iteration(known[0].iteration) if all(one in each for each in labels)
    ]
    first = known[0]
    return prefix + (
        Origin(first.group, ".".join(shared), first.member).name if shared else first.short
    )


def with_front(rows: Sequence[Row], axes: Sequence[Metric], noise: Mapping[str, str]) -> list[Row]:
    """Marks the rows that no other row beats; a row without one of the numbers takes no part.

    `noise` says what random numbers each result shares with others.
    """
    known = [row for row in rows if all(axis.name in row.numbers for axis in axes)]
    marked: list[Row] = []
    for row in rows:
        others = [other for other in known if other is not row and row in known]
        above = [other for other in others if beats(_point(other, axes), _point(row, axes))]
        rivals = above or [other for other in others if _is_surely_cheaper(other, row, axes, noise)]
        if above:
            tied = not any(_surely(one, row, axis, noise) for one in above for axis in axes)
        else:
            tied = any(not _surely(row, one, axes[0], noise) for one in rivals)
        marked.append(replace(row, front=row in known and not above, tied_front=tied))
    return marked


def _point(row: Row, axes: Sequence[Metric]) -> tuple[float, ...]:
    """A row on the axes, turned so that lower is better."""
    return tuple(_sign(axis) * row.numbers[axis.name].mean for axis in axes)


def _sign(axis: Metric) -> float:
    return 1.0 if axis.better == "lower" else -1.0


def _is_surely_cheaper(
    one: Row, other: Row, axes: Sequence[Metric], noise: Mapping[str, str]
) -> bool:
    """Whether a row is better in every axis but the first beyond the interval."""
    return all(_surely(one, other, axis, noise) for axis in axes[1:])


def _surely(one: Row, other: Row, axis: Metric, noise: Mapping[str, str]) -> bool:
    """Whether a row is better in an axis, beyond the 95 % interval of the difference.

    Of FIDs at common seeds it is that of their differences; else it is made of both intervals.
    Numbers without any, of one seed, count as exact.
    """
    first, second = one.numbers[axis.name], other.numbers[axis.name]
    ahead = _sign(axis) * (second.mean - first.mean)
    paired = _above(one, other, noise) if axis.name == "fid" else None
    if paired is not None:
        return paired.low > 0
    return ahead > math.hypot(first.half or 0.0, second.half or 0.0)


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one point is nowhere above another and somewhere below it."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def differing_settings(rows: Sequence[Row]) -> tuple[str, ...]:
    """Settings in which rows of the same shape differ; those of other shapes differ by their names.

    Settings that differ together, such as those of one job reached in two ways, are named once, by
    the shortest path.
    """
    shapes: dict[str, list[Row]] = {}
    for row in rows:
        shapes.setdefault(row.shape, []).append(row)
    names: dict[str, None] = {}
    for alike in shapes.values():
        for name in dict.fromkeys(key for row in alike for key in row.settings):
            values = {canonical_json(row.settings.get(name)) for row in alike}
            if len(values) > 1 and not name.startswith("solver"):  # the report names the solver
                names[name] = None
    columns: dict[tuple[str, ...], str] = {}
    for name in sorted(names, key=lambda key: (key.endswith(".id"), key.count("."))):
        column = tuple(canonical_json(row.settings.get(name)) for row in rows)
        columns.setdefault(column, name)
    kept = set(columns.values())
    seen = [name for name in names if name in kept]
    # A data set's id says nothing where settings of it are named that differ.
    others = {name: [each for each in seen if each != name] for name in seen}
    return tuple(
        name
        for name in seen
        if not name.endswith(".id")
        or not any(each.startswith(name.removesuffix("id")) for each in others[name])
    )


def fid_protocol(report: QualityReport) -> dict[str, str]:
    """How a Fréchet distance was taken, as name -> value; equal ones can be compared."""
    protocol = report.protocol or FidProtocol(
        features=report.features, reference=report.reference, samples=report.samples, draws=1
    )
    return {
        "reference": protocol.reference,
        "features": protocol.features,
        "samples": str(protocol.samples),
        "draws": str(protocol.draws),
    }


def protocol_text(protocol: Mapping[str, str]) -> str:
    """The protocol in one phrase: `200 samples, reference load_dataset-68425b, ...`."""
    return ", ".join(f"{name} {_short(value)}" for name, value in protocol.items())


def check_protocols(reports: Mapping[str, QualityReport]) -> None:
    """Refuses to compare distances that were taken differently.

    Raises:
        UserError: there is more than one protocol; says what differs, and where.
    """
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, report in reports.items():
        found.setdefault(tuple(fid_protocol(report).items()), []).append(name)
    if len(found) < 2:
        return
    first = dict(next(iter(found)))
    differing = [name for name in first if len({dict(key)[name] for key in found}) > 1]
    sides = [
        f"{protocol_text({name: dict(key)[name] for name in differing})} in {_named(names)}"
        for key, names in found.items()
    ]
    raise UserError(
        "compare",
        f"these FIDs were taken with unlike {' and '.join(differing)}: {'; '.join(sides)}",
        "name results of one kind (RUN/JOB or RUN/GROUP), or evaluate all in the same way",
    )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _short(value: str) -> str:
    """An artifact id with six digits of its key; other values as they are."""
    kind, key = split_id(value)
    return f"{kind}-{key[:6]}" if len(key) > 12 else value
