"""Results that differ only in their seeds become one row with mean and interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slimctl.jobs.base.keys import canonical_json
from slimctl.models.metrics.interval import Interval, mean_interval
from slimctl.orchestrator.comparison.collect import Found, Missing, Result
from slimctl.orchestrator.comparison.lineage import Lineage
from slimctl.orchestrator.comparison.protocol import check_protocols, fid_protocol
from slimctl.orchestrator.groups import Origin, origin_of, split_iteration

SEED = "seed"
MEASURED = (
    "fid", "kid", "precision", "recall", "nfe", "parameters", "macs", "latency_ms",
)  # fmt: skip
MINIMIZED = ("fid", "parameters")
"""Objectives of the Pareto front."""


@dataclass(frozen=True)
class Number:
    """A measured number, or the mean of several.

    Args:
        mean: the number.
        half: half the width of the 95 % interval of the mean over seeds; None for a single value.
    """

    mean: float
    half: float | None = None


@dataclass(frozen=True)
class Row:
    """Results that differ in nothing but seeds.

    Args:
        name: what they have in common, such as `students.width=8.quality`.
        results: at least one.
        numbers: name in a QualityReport -> its mean.
        settings: what shaped them, seeds left out.
        shape: the kinds they were made by.
        hours: device hours behind the models, by kind of device; the mean over seeds.
        front: whether no other row is better in one objective and as good in the other.
        above_first: by how much its FID is above that of the first row at the same seeds: mean and
            95 % interval; None for the first row, and with fewer than two seeds in common.
    """

    name: str
    results: tuple[Result, ...]
    numbers: Mapping[str, Number]
    settings: Mapping[str, Any]
    shape: str
    hours: Mapping[str, float]
    front: bool = False
    above_first: Interval | None = None

    @property
    def tied(self) -> bool:
        """Whether the seeds do not tell its FID from that of the first row."""
        above = self.above_first
        return above is not None and above.low <= 0 <= above.high


@dataclass(frozen=True)
class Comparison:
    """Rows in order of their FID, and what they cost together.

    Args:
        rows: the best first.
        differing: settings in which rows of one shape differ.
        protocol: how every FID was taken.
        spent: device hours of all models, what they share counted once.
        saved: device hours that would have been spent on what they share.
        missing: measurements that are not there.
    """

    rows: tuple[Row, ...]
    differing: tuple[str, ...]
    protocol: Mapping[str, str]
    spent: Mapping[str, float]
    saved: Mapping[str, float]
    missing: tuple[Missing, ...]


def compare(found: Found, lineage: Lineage) -> Comparison:
    """Pools, sorts and prices results.

    Args:
        found: at least one result.
        lineage: of their store.

    Raises:
        UserError: their FIDs were not taken in the same way.
    """
    check_protocols({result.name: result.report for result in found.results})
    several = len({result.run for result in found.results}) > 1
    pools: dict[str, list[Result]] = {}
    settings = {result.name: _settings(result, lineage) for result in found.results}
    for result in found.results:
        kept = {key: value for key, value in settings[result.name].items() if not is_seed(key)}
        shape = lineage.shape(result.report.id)
        pools.setdefault(canonical_json([shape, kept]), []).append(result)
    rows = [_row(pool, settings, lineage, several=several) for pool in pools.values()]
    rows = with_front(sorted(rows, key=lambda row: row.numbers["fid"].mean))
    noise = {result.name: _seeds(settings[result.name]) for result in found.results}
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
        tuple(rows), differing_settings(rows), protocol, spent, saved, tuple(found.missing)
    )


def is_seed(setting: str) -> bool:
    """Whether a dotted setting is the seed of a job."""
    return setting.rpartition(".")[2] == SEED


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
    """What shaped a model and its measurement; the protocol of the FID is told by itself."""
    manifest = lineage.manifest(result.report.id)
    inputs = dict(lineage.inputs(result.report.id))
    own = lineage.settings(result.report.id)
    outside = tuple(f"{name}." for name in inputs if name in ("data", "features"))
    kept = {key: value for key, value in own.items() if not key.startswith(outside)}
    report = result.report
    where = {"device": report.device, "threads": report.threads} if manifest else {}
    return {**kept, **where}


def _row(
    pool: Sequence[Result],
    settings: Mapping[str, Mapping[str, Any]],
    lineage: Lineage,
    *,
    several: bool,
) -> Row:
    numbers = {name: _mean([float(getattr(one.report, name)) for one in pool]) for name in MEASURED}
    if len(pool) == 1:  # one value has the interval of its own estimate
        report = pool[0].report
        numbers["kid"] = Number(report.kid, (report.kid_high - report.kid_low) / 2)
    each = [lineage.hours(lineage.behind(one.report.model)) for one in pool]
    devices = {device for hours in each for device in hours}
    hours = {one: sum(spent.get(one, 0.0) for spent in each) / len(pool) for one in sorted(devices)}
    own = settings[pool[0].name]
    kept = {key: value for key, value in own.items() if not is_seed(key)}
    shape = lineage.shape(pool[0].report.id)
    return Row(_name(pool, several=several), tuple(pool), numbers, kept, shape, hours)


def _mean(values: Sequence[float]) -> Number:
    if len(values) < 2:
        return Number(values[0])
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


def with_front(rows: Sequence[Row]) -> list[Row]:
    """Marks the rows that no other row beats."""
    points = [tuple(row.numbers[name].mean for name in MINIMIZED) for row in rows]
    return [
        replace(row, front=not any(beats(other, point) for other in points))
        for row, point in zip(rows, points, strict=True)
    ]


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one point is nowhere above another and somewhere below it."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def differing_settings(rows: Sequence[Row]) -> tuple[str, ...]:
    """Settings in which rows of the same shape differ.

    Rows of another shape are told apart by their names: their settings have little to do with each
    other. Settings that differ together, such as those of one job reached in two ways, are named
    once, by the shortest path.
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
    return tuple(name for name in seen if not _is_told(name, seen))


def _is_told(name: str, names: Sequence[str]) -> bool:
    """Whether a data set's id differs only with settings of it that are named anyway."""
    prefix = name.removesuffix("id")
    return name.endswith(".id") and any(n.startswith(prefix) and n != name for n in names)
