"""Which defaults the figures of a GPU settle, by rules that were written before any was seen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_session.session import Figure
from slimctl.models.solvers.fit_grid import ROUNDING_RMS

LEAST_EFFICIENCY = 0.75
"""A GPU's share of a batch is worth a GPU where it makes this part of the images a second that the
GPU makes at its best local batch."""
MORE_EVALUATIONS = 1.05
"""Of a precision for sampling, over those of IEEE products."""
STALL = 0.05
"""Share of its time that a training may spend on checkpoints."""
LEAST_CHECKPOINT_S = 60.0


@dataclass(frozen=True)
class Settled:
    """One default."""

    what: str
    value: str | None
    """None = the figures do not say."""
    because: str
    where: str
    """File and name of the default."""


def settle(figures: Sequence[Figure]) -> list[Settled]:
    """Every default that a session is for, settled or not."""
    return [
        _least_share(figures),
        _memory_format(figures),
        _precision(figures),
        _interval(figures),
        _metrics(figures),
    ]


def _steps(figures: Sequence[Figure], *ways: str) -> Iterator[Figure]:
    return (line for line in figures if line.get("way") in ways and "images_per_s" in line)


def _least_share(figures: Sequence[Figure]) -> Settled:
    what, where = "least share of a GPU", "jobs/training/spec.py: SMALLEST_GPU_SHARE"
    best: dict[int, list[float]] = {}
    eager = list(_steps(figures, "contiguous", "channels_last"))
    for case in {line["case"] for line in eager}:
        rates: dict[int, float] = {}
        for line in eager:
            if line["case"] == case:
                rate, batch = line["images_per_s"], line["batch"]
                rates[batch] = max(rate, rates.get(batch, 0.0))
        for batch, rate in rates.items():
            best.setdefault(batch, []).append(rate / max(rates.values()))
    enough = [batch for batch, shares in best.items() if min(shares) >= LEAST_EFFICIENCY]
    if len(best) < 2 or not enough:
        return Settled(what, None, "fewer than two local batches were timed", where)
    said = ", ".join(f"{batch}: {min(best[batch]):.0%}" for batch in sorted(best))
    because = f"of the best images/s, eager, the slowest network: {said}"
    return Settled(what, str(min(enough)), because, where)


def _memory_format(figures: Sequence[Figure]) -> Settled:
    what, where = "memory format, eager", "models/engine.py: choose_engine"
    ratios = []
    plain = {(line["case"], line["batch"]): line["ms"] for line in _steps(figures, "contiguous")}
    for line in _steps(figures, "channels_last"):
        at = line["case"], line["batch"]
        if at in plain and line["batch"] >= 64:
            ratios.append(plain[at] / line["ms"])
    if not ratios:
        return Settled(what, None, "no step of 64 or more was timed in both formats", where)
    mean = sum(ratios) / len(ratios)
    value = "channels_last" if mean > 1 else "contiguous"
    return Settled(
        what, value, f"contiguous over channels_last: {mean:.2f} of {len(ratios)}", where
    )


def _precision(figures: Sequence[Figure]) -> Settled:
    what, where = "precision of sampling", "jobs/kinds/generate_pairs.py: precision"
    speed = {
        line["way"]: line["evaluations_per_s"] for line in figures if "evaluations_per_s" in line
    }
    ends = {(line["solver"], line["way"]): line for line in figures if "rms_from_ieee" in line}
    base = ends.get(("rk45", "ieee"))
    if base is None:
        return Settled(what, None, "no end points with IEEE products", where)
    right = []
    for (solver, way), line in ends.items():
        grid = ends.get(("grid", way))
        if solver != "rk45" or grid is None or way not in speed:
            continue
        moved = max(line["rms_from_ieee"], grid["rms_from_ieee"])
        if moved < ROUNDING_RMS and line["nfe"] <= MORE_EVALUATIONS * base["nfe"]:
            right.append(way)
    if not right:
        return Settled(what, None, "no precision was measured for both", where)
    fastest = max(right, key=lambda way: speed[way])
    said = ", ".join(f"{way} {speed[way]:.0f}/s" for way in sorted(speed))
    return Settled(what, fastest, f"within rounding: {', '.join(right)}; speeds: {said}", where)


def _interval(figures: Sequence[Figure]) -> Settled:
    what, where = "checkpoint interval", "jobs/training/spec.py: checkpoint_s"
    line = _figure(figures, "checkpoint")
    if "write_s" not in line:
        return Settled(what, None, "no checkpoint was written", where)
    copy_s = line["to_pinned_s" if "to_pinned_s" in line else "to_pageable_s"]
    whole = copy_s + line["write_s"]
    value = max(LEAST_CHECKPOINT_S, copy_s / STALL, line["write_s"])
    because = (
        f"{line['gigabytes']:.1f} GB: {copy_s:.2f} s to the host, {line['write_s']:.1f} s written; "
        f"if steps waited for both it would be {whole / STALL:.0f} s"
    )
    return Settled(what, f"{value:.0f} s", because, where)


def _metrics(figures: Sequence[Figure]) -> Settled:
    what, where = "metrics on the device", "jobs/evaluation/quality.py: measure"
    line = _figure(figures, "frechet")
    if "device_s" not in line:
        return Settled(what, None, "no Fréchet distance was timed", where)
    value = "device" if line["device_s"] < line["cpu_s"] else "cpu"
    because = f"{line['device_s']:.2f} s on the device, {line['cpu_s']:.2f} s on four CPU threads"
    return Settled(what, value, because, where)


def _figure(figures: Sequence[Figure], name: str) -> Mapping[str, Any]:
    return next((line for line in figures if line["figure"] == name), {})
