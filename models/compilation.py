"""Whether compiling a network pays on a device: measured once, and remembered.

For GPUs only, where kernels are launched one by one; untested on CUDA. The answer depends on a
clock, so whoever uses it keeps it with the work (a resumed training must not change its numerics).
"""

import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from slimctl.models.user_cache import cache_folder

WARM_UP = 3
TIMED = 7


@dataclass(frozen=True)
class CompileTimes:
    """What compilation costs and brings."""

    eager_s: float
    """Time of a step that is not compiled."""
    compiled_s: float
    """Time of a compiled step."""
    first_s: float
    """Time of the first compiled step, with the compilation."""

    def pays(self, steps: int) -> bool:
        """Whether `steps` steps are faster compiled, the compilation included."""
        return self.first_s + self.compiled_s * max(0, steps - 1) < self.eager_s * steps


def compile_times(
    identity: Mapping[str, object], eager: Callable[[], None], compiled: Callable[[], None]
) -> CompileTimes:
    """Measured times, or those remembered for the same identity in the user's cache folder.

    Args:
        identity: network, shapes, device and versions, as plain data.
        eager: one step, waiting for the device.
        compiled: the same step compiled; its first call compiles.
    """
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
    known = _read()
    if key in known:
        return known[key]
    for _ in range(WARM_UP):
        eager()
    eager_s = statistics.median(_seconds(eager) for _ in range(TIMED))
    first_s = _seconds(compiled)
    for _ in range(WARM_UP):
        compiled()
    compiled_s = statistics.median(_seconds(compiled) for _ in range(TIMED))
    times = CompileTimes(eager_s, compiled_s, first_s)
    _write({**known, key: times})
    return times


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _cache_file() -> Path:
    return cache_folder() / "compile_times.json"


def _read() -> dict[str, CompileTimes]:
    try:
        entries = json.loads(_cache_file().read_text())
        return {key: CompileTimes(**entry) for key, entry in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(entries: Mapping[str, CompileTimes]) -> None:
    """Keeps the times if they can be kept: they only save time."""
    path = _cache_file()
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({key: vars(times) for key, times in entries.items()}))
        temporary.replace(path)
