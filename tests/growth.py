"""How work grows with its amount: seconds are for `benchmarks`, as a busy machine has others."""

import gc
import time
from collections.abc import Callable


def growth(work: Callable[[int], object], small: int, large: int) -> float:
    """CPU time of so much work over that of little, per piece: 1 where it is in proportion."""
    little = _cpu_s(work, small) / small
    return _cpu_s(work, large) / large / little


def _cpu_s(work: Callable[[int], object], amount: int) -> float:
    gc.collect()
    started = time.process_time()
    work(amount)
    return time.process_time() - started
