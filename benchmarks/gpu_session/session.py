"""Figures one by one, each in a try of its own, phases in budgets of their own.

A phase that takes too long is interrupted, and says which figure it was at; the process itself ends
before the seven minutes of a call, whatever hangs, with all figures before that already written.
"""

import faulthandler
import gc
import json
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch

from benchmarks.gpu_session.sizes import Sizes
from benchmarks.measure import Machine

PART_S = 410.0
"""After that a call ends, s; under seven minutes with the start of the program."""
STEADY_S = 1.5
"""Time that repeating one measurement may take, s."""
Figure = dict[str, Any]


class BudgetError(BaseException):
    """A phase is over its time; no `except Exception` on the way may keep it."""


@dataclass
class Session:
    """What phases share.

    Args:
        machine: where they measure.
        sizes: of what they measure.
        official: a checkout of SlimFlow's public code; None = it is left out, which is said.
        outputs: files that every figure is written to.
    """

    machine: Machine
    sizes: Sizes
    official: Path | None
    outputs: tuple[TextIO, ...]
    figures: list[Figure] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    """Floating-point operations a second of a large matrix product, by kind of product."""
    phase: str = ""
    _started: float = field(default_factory=time.perf_counter)
    _ends: float = 0.0

    @property
    def device(self) -> torch.device:
        """Where everything computes."""
        return self.machine.device

    @property
    def on_gpu(self) -> bool:
        """Whether the figures are a GPU's."""
        return self.device.type == "cuda"

    def left_s(self) -> float:
        """Time that the phase has left, s."""
        return self._ends - time.perf_counter()

    def run(self, phase: str, budget_s: float, work: Callable[["Session"], None]) -> None:
        """Runs a phase; whatever it raises becomes a figure."""
        budget_s *= self.sizes.patience
        self.phase, began = phase, time.perf_counter()
        self._ends = began + budget_s
        with _alarm(budget_s):
            try:
                work(self)
            except BudgetError:
                self.note("out of time", failed=f"over its budget of {budget_s:g} s")
            except Exception as error:  # noqa: BLE001  (a figure, not an end)
                self.note("phase", failed=_described(error))
        self.note("phase took", seconds=time.perf_counter() - began, budget_s=budget_s)

    def attempt(self, name: str, work: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Measures one figure; an error becomes its value. Returns what was measured."""
        if self.left_s() <= 0:
            self.note(name, failed="not reached: the phase is out of time")
            return {}
        try:
            found = work()
        except BudgetError:
            self.note(name, failed="interrupted: the phase is out of time")
            raise
        except Exception as error:  # noqa: BLE001  (the next figure is still wanted)
            self.note(name, failed=_described(error))
            found = {}
        else:
            self.note(name, **found)
        self._free()
        return found

    def note(self, figure: str, **values: Any) -> None:
        """Writes a figure, at once."""
        at = round(time.perf_counter() - self._started, 1)
        line: Figure = {"phase": self.phase, "figure": figure, **values, "at_s": at}
        self.figures.append(line)
        for output in self.outputs:
            print(json.dumps(line), file=output, flush=True)

    def steady_s(self, work: Callable[[], object]) -> float:
        """Median time of a call after another one, s."""
        work()
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < self.sizes.repeats and (
            not times or time.perf_counter() - began < STEADY_S
        ):
            times.append(self.machine.seconds(work))
        return statistics.median(times)

    def _free(self) -> None:
        if self.on_gpu:
            gc.collect()
            torch.cuda.empty_cache()


def _described(error: Exception) -> str:
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first[:300]}"


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises BudgetError in the main thread after that time."""

    def over(number: int, frame: FrameType | None) -> None:
        raise BudgetError

    before = signal.signal(signal.SIGALRM, over)
    began, (left, every) = time.perf_counter(), signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:  # somebody else's alarm goes on
            signal.setitimer(
                signal.ITIMER_REAL, max(1e-3, left - time.perf_counter() + began), every
            )


@contextmanager
def ends_in_time(seconds: float = PART_S) -> Iterator[None]:
    """Ends the process after that time even if it hangs in a kernel, with a stack of where."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
