"""Whether compiling a network pays for what is left to do: measured, where it could pay at all.

For GPUs only, where kernels are launched one by one; untested on CUDA. The answer depends on a
clock, so whoever uses it keeps it with the work (a resumed training must not change its numerics).
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

WARM_UP = 3
TIMED = 7
WORTH_S = 180.0
"""Work that takes less than this as it is, is not worth compiling for: that takes a minute."""


@dataclass(frozen=True)
class CompileTimes:
    """What compilation costs and brings."""

    eager_s: float
    """Time of a step that is not compiled."""
    compiled_s: float | None = None
    """Time of a compiled step; None = there is too little to do to have tried."""
    first_s: float | None = None
    """Time of the first compiled step, with the compilation."""

    def pays(self, steps: int) -> bool:
        """Whether `steps` steps are faster compiled, the compilation included."""
        if self.compiled_s is None or self.first_s is None:
            return False
        return self.first_s + self.compiled_s * max(0, steps - 1) < self.eager_s * steps


def compile_times(
    steps: int, eager: Callable[[], None], compiled: Callable[[], None]
) -> CompileTimes:
    """Measures an eager step and, where all `steps` take minutes, a compiled one.

    Args:
        steps: to be done.
        eager: one step, waiting for the device.
        compiled: the same step compiled; its first call compiles.
    """
    eager_s = _steady_s(eager)
    if eager_s * steps < WORTH_S:
        return CompileTimes(eager_s)
    first_s = _seconds(compiled)
    return CompileTimes(eager_s, _steady_s(compiled), first_s)


class CompilesLater:
    """Compiles a sampler once what is left of its batches would take minutes as it is.

    The batches themselves are timed: of each kind the second, since the first warms up or compiles.
    For batches of one size and a fixed number of evaluations. A sampler that compiling makes slower
    goes back.

    Args:
        batches: to be made in all, as far as is known.
        set_compiled: whether the networks are compiled from the next batch on.
    """

    def __init__(self, batches: int, set_compiled: Callable[[bool], None]) -> None:
        self.compiled = False
        """Whether the next batch is."""
        self._left = batches
        self._set_compiled = set_compiled
        self._made = 0
        self._eager_s: float | None = None

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Around the making of a batch, to the end of waiting for it."""
        started = time.perf_counter()
        yield
        self._took(time.perf_counter() - started)

    def _took(self, seconds: float) -> None:
        self._left -= 1
        self._made += 1
        if self._made != 2:
            return
        if self._eager_s is None:
            self._eager_s = seconds
            if seconds * self._left >= WORTH_S:
                self._switch(compiled=True)
        elif self.compiled and seconds > self._eager_s:
            self._switch(compiled=False)

    def _switch(self, *, compiled: bool) -> None:
        self.compiled, self._made = compiled, 0
        self._set_compiled(compiled)


def _steady_s(work: Callable[[], None]) -> float:
    for _ in range(WARM_UP):
        work()
    return statistics.median(_seconds(work) for _ in range(TIMED))


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
