"""Errors measured when a training is over, on its workers: notes with the result, of bounded time.

Every worker looks at its own pieces until all are done or the time is up, so that a network of any
size costs no more than that, and fewer samples show in the interval.
"""

import json
import math
import time
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from slimctl.jobs.base.turns import in_turns
from slimctl.jobs.storage.blobs import Blobs
from slimctl.models.metrics.interval import student_t

FILE = "final_errors.json"
LIMIT_S = 60.0
"""After which no further piece is begun."""

_Sums = dict[str, tuple[int, float, float]]
"""Name -> number of samples, sum of their errors, sum of the squares."""


def note_final_errors(
    pieces: Iterable[Mapping[str, Tensor]], folder: Blobs, *, in_step: bool = False
) -> None:
    """Measures, together with the other workers, and writes what came out; the first one writes.

    Args:
        pieces: errors of this worker's samples by name, 1-D, a piece at a time.
        folder: of the training's work.
        in_step: whether each piece takes all workers, so that they stop together.
    """
    sums: _Sums = {}
    started = time.monotonic()
    for piece in in_turns(pieces):
        for name, each in piece.items():
            count, total, squares = sums.get(name, (0, 0.0, 0.0))
            values = each.double()
            square = float(values.square().sum())
            sums[name] = (count + len(each), total + float(values.sum()), squares + square)
        if _is_over(started, in_step=in_step):
            break
    found = _added_up(sums)
    if found and _is_first():
        folder.write(FILE, json.dumps(_figures(found)).encode())


def noted_final_errors(folder: Blobs) -> Mapping[str, float]:
    """For the manifest: means by name, `NAME_half` half their 95 % intervals, `NAME_of` how many.

    Empty where nothing was measured.
    """
    try:
        found: dict[str, float] = json.loads(folder.read(FILE))
    except FileNotFoundError:
        return {}
    return found


def _is_over(started: float, *, in_step: bool) -> bool:
    """Whether the time is up: on this worker, or of those in step on any."""
    is_over = time.monotonic() - started > LIMIT_S
    if not in_step:
        return is_over
    every = [False] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(every, is_over)
    return any(every)


def _figures(sums: _Sums) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, (count, total, squares) in sums.items():
        mean = total / count
        figures |= {name: mean, f"{name}_of": count}
        if count > 1:
            variance = max(0.0, squares - count * mean**2) / (count - 1)
            figures[f"{name}_half"] = student_t(0.95, count - 1) * math.sqrt(variance / count)
    return figures


def _added_up(sums: _Sums) -> _Sums:
    """The sums of all workers."""
    if not _is_together():
        return sums
    every: list[_Sums] = [{} for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(every, sums)
    names = dict.fromkeys(name for each in every for name in each)
    nothing = (0, 0.0, 0.0)
    return {
        name: tuple(map(sum, zip(*(each.get(name, nothing) for each in every), strict=True)))  # type: ignore[misc]
        for name in names
    }


def _is_first() -> bool:
    return not _is_together() or torch.distributed.get_rank() == 0


def _is_together() -> bool:
    """Whether there are other workers."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
