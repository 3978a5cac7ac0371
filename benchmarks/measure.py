"""Timing two programs in turn, and the machine's own limits.

On a CPU with one thread a duration is the CPU time of the process: on a machine that others use as
well, wall time measures the others. Everywhere else it is wall time.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

MATRIX = 1024
COPY_MIB = 256
REPEATS = 5


@dataclass(frozen=True)
class Machine:
    """Where and how something is measured."""

    device: torch.device
    threads: int

    @property
    def on_cpu_time(self) -> bool:
        """Whether a duration is CPU time."""
        return self.device.type == "cpu" and self.threads == 1

    def describe(self) -> dict[str, Any]:
        """The device, the versions and the clock, for the head of a result."""
        gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if gpu else _cpu_name(),
            "threads": self.threads,
            "clock": "cpu time" if self.on_cpu_time else "wall time",
            "versions": {"torch": torch.__version__, "python": platform.python_version()},
        }

    def seconds(self, work: Callable[[], object]) -> float:
        """Time of one call, s; waits for the device."""
        self.wait()
        clock = time.process_time if self.on_cpu_time else time.perf_counter
        started = clock()
        work()
        self.wait()
        return clock() - started

    def wait(self) -> None:
        """Waits until the device has done everything it was asked to do."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def this_machine(threads: int = 1, device: str | None = None) -> Machine:
    """The GPU if there is one, else the CPU with that many threads."""
    torch.set_num_threads(threads)
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Machine(torch.device(name), threads)


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123  (no file of ours)
            lines = [line for line in file if line.startswith("model name")]
    except OSError:
        lines = []
    return lines[0].partition(":")[2].strip() if lines else platform.processor() or "cpu"


@dataclass(frozen=True)
class Rates:
    """What the device can do at best, measured."""

    flops: Mapping[str, float]
    """Floating-point operations a second of a large matrix product, by dtype."""
    bytes_per_s: float
    """Bytes read and written a second by a copy that fits no cache."""


def measure_rates(machine: Machine) -> Rates:
    """The fastest of a few large products and copies, so that a disturbed one does not count.

    Of several CPU threads wall time is measured, which others on the machine lengthen; so the rate
    is at least that of as many threads alone, which is CPU time: the floor stays a floor.
    """
    flops = {name: _matrix_rate(machine, name) for name in ("float32", "bfloat16")}
    if machine.device.type == "cpu" and machine.threads > 1:
        alone = this_machine(1, "cpu")
        flops = {
            name: max(rate, machine.threads * _matrix_rate(alone, name))
            for name, rate in flops.items()
        }
        torch.set_num_threads(machine.threads)
    source = torch.empty(COPY_MIB * 2**18, dtype=torch.float32, device=machine.device).fill_(1.0)
    target = torch.empty_like(source)
    seconds = min(machine.seconds(lambda: target.copy_(source)) for _ in range(REPEATS))
    return Rates(flops, 2 * 4 * source.numel() / seconds)


def _matrix_rate(machine: Machine, dtype: str) -> float:
    size = MATRIX if machine.device.type == "cpu" else 8 * MATRIX
    left = torch.randn(size, size, device=machine.device).to(getattr(torch, dtype))
    right = torch.randn(size, size, device=machine.device).to(getattr(torch, dtype))
    product: Tensor = left @ right
    seconds = min(
        machine.seconds(lambda: torch.mm(left, right, out=product)) for _ in range(3 * REPEATS)
    )
    return 2.0 * size**3 / seconds


@dataclass
class Case:
    """One line of a table. Times in seconds."""

    name: str
    device: str
    dtype: str
    ours: float
    floor: float | None = None
    """The least time the machine could take for the same arithmetic and memory traffic."""
    reference: float | None = None
    ratio: float | None = None
    """Median of reference time over ours, taken in turn."""
    more: dict[str, Any] = field(default_factory=dict)
    """Whatever else is worth knowing."""

    def data(self) -> dict[str, Any]:
        """For JSON; without a reference there are no such entries."""
        fields = asdict(self)
        more: dict[str, Any] = fields.pop("more")
        return {name: value for name, value in fields.items() if value is not None} | more


def in_turn(
    ours: Callable[[], float], theirs: Callable[[], float] | None, rounds: int
) -> tuple[float, float | None, float | None]:
    """Median of ours, of theirs, and of the ratios of neighbours (theirs over ours).

    Args:
        ours: runs once and returns its seconds.
        theirs: the same for the reference; None = there is none.
        rounds: how often.
    """
    mine: list[float] = []
    other: list[float] = []
    for _ in range(rounds):
        mine.append(ours())
        if theirs is not None:
            other.append(theirs())
    if not other:
        return statistics.median(mine), None, None
    ratios = [b / a for a, b in zip(mine, other, strict=True)]
    return statistics.median(mine), statistics.median(other), statistics.median(ratios)


def report(head: Mapping[str, Any], cases: Sequence[Case], *, as_json: bool) -> None:
    """Prints one JSON object, or a table."""
    if as_json:
        dtype = cases[0].dtype if cases else ""
        data = {**head, "dtype": dtype, "cases": {case.name: case.data() for case in cases}}
        print(json.dumps(data, indent=1))
        return
    print(", ".join(f"{name}: {value}" for name, value in head.items()))
    rows = [["case", "dtype", "ours", "official", "ratio", "floor", "of the floor"]]
    rows += [_row(case) for case in cases]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    for case in cases:
        for name, value in case.more.items():
            print(f"  {case.name}: {name} = {value}")


def show(found: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints one JSON object, or a line for each value."""
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for name, value in found.items():
        print(f"{name}: {value}")


def _row(case: Case) -> list[str]:
    return [
        case.name,
        case.dtype,
        _seconds(case.ours),
        _seconds(case.reference),
        "-" if case.ratio is None else f"{case.ratio:.2f}x",
        _seconds(case.floor),
        "-" if case.floor is None else f"{case.floor / case.ours:.0%}",
    ]


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.2f} ms"
