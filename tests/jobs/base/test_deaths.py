from pathlib import Path

import pytest

from slimctl.jobs.base import deaths
from slimctl.jobs.base.deaths import MOST, DeathWatch, kernel_kills, memory_limit
from slimctl.jobs.base.errors import OutOfMemory, WorkLost
from slimctl.jobs.base.failures import BUDGETS

MONITORED = """The actor died unexpectedly before finishing this task.
\tclass_name: JobActor
\tpid: 7
1 worker(s) were killed due to the node running low on memory. OOM kill reason: over the threshold.
Memory on the node (IP: 127.0.0.1, ID: ab) was 7.61GB used / 8.00GB limit (0.951250)
Top 10 memory users: ..."""
KILLED = """The actor died unexpectedly before finishing this task.
\tclass_name: JobActor
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR
Worker exit detail: connection error code 2. (1) the process was killed by the OOM killer ..."""


@pytest.fixture
def kills(monkeypatch) -> list[int]:
    counts = [3]
    monkeypatch.setattr(deaths, "kernel_kills", lambda: counts[-1])
    monkeypatch.setattr(deaths, "memory_limit", lambda: 3 * 2**29)
    return counts


def test_rays_monitor_says_how_much(kills):
    death = DeathWatch().explain(RuntimeError(MONITORED))
    assert death.what.startswith("out of memory: 7.61 of 8.00 GB were in use")
    assert "batch_size" in death.fix


def test_the_kernel_is_seen_by_its_count(kills):
    watch = DeathWatch()
    kills.append(4)
    death = watch.explain(RuntimeError(KILLED))
    assert death.what == "out of memory: the kernel ended it, over the 1.5 GiB that there are"
    assert "fewer workers" in death.fix
    assert (death.failure, BUDGETS[death.failure.__name__].failures) == (OutOfMemory, 1)
    assert "out of memory" not in watch.explain(RuntimeError(KILLED)).what, "a kill counts once"


def test_another_death_keeps_rays_reason(kills):
    death = DeathWatch().explain(RuntimeError(KILLED))
    assert death.what.startswith(
        "its worker died: RuntimeError: The actor is dead because its worker process has died. "
        "Worker exit type: SYSTEM_ERROR Worker exit detail: connection error code 2."
    )
    assert (death.fix, death.failure) == ("", WorkLost)
    long = DeathWatch().explain(RuntimeError("x" * 5000), "Ray Train failed").what
    assert long.startswith("Ray Train failed: RuntimeError: xxx")
    assert len(long) < MOST + 60


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """`machine({"proc/vmstat": ...})` writes the kernel's files."""
    monkeypatch.setattr(deaths, "PROC", tmp_path / "proc")
    monkeypatch.setattr(deaths, "GROUPS", tmp_path / "groups")

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            file = Path(tmp_path, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    write({"proc/meminfo": "MemTotal:  8388608 kB\n", "proc/vmstat": "x 1\noom_kill 9\n"})
    return write


def test_without_a_group_it_is_the_machine(machine):
    assert (memory_limit(), kernel_kills()) == (8 * 2**30, 9)


def test_version_2(machine):
    """The smallest limit around it counts, and "max" is none."""
    machine({
        "proc/self/cgroup": "0::/slurm/job\n", "groups/slurm/memory.max": "1048576\n",
        "groups/slurm/job/memory.max": "max\n",
        "groups/slurm/job/memory.events": "oom 5\noom_kill 2\n",
    })  # fmt: skip
    assert (memory_limit(), kernel_kills()) == (2**20, 2)


def test_version_1(machine):
    """No limit is a huge number there."""
    machine({
        "proc/self/cgroup": "5:cpu:/a\n4:memory:/a\n0::/b\n",
        "groups/memory/a/memory.limit_in_bytes": "2097152\n",
        "groups/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "groups/memory/a/memory.oom_control": "under_oom 0\noom_kill 4\n",
    })  # fmt: skip
    assert (memory_limit(), kernel_kills()) == (2 * 2**20, 4)


def test_a_path_of_the_host_is_not_mounted_in_a_container(machine):
    machine({"proc/self/cgroup": "0::/../../docker/ab\n", "groups/memory.max": "4096\n"})
    assert memory_limit() == 4096


def test_another_system(monkeypatch, tmp_path):
    monkeypatch.setattr(deaths, "PROC", tmp_path)
    monkeypatch.setattr(deaths, "GROUPS", tmp_path)
    assert (memory_limit(), kernel_kills()) == (None, 0)


def test_a_kill_that_the_kernel_counts_in_the_group_of_this_process(machine):
    group = {"proc/self/cgroup": "0::/job\n", "groups/job/memory.max": "1363148800\n"}
    machine(group | {"groups/job/memory.events": "oom 0\noom_kill 0\n"})
    watch = DeathWatch()
    assert watch.explain(RuntimeError(KILLED)).failure is WorkLost
    machine({"groups/job/memory.events": "oom 1\noom_kill 1\n"})
    death = watch.explain(RuntimeError(KILLED))
    assert death.failure is OutOfMemory
    assert death.what.endswith("over the 1.3 GiB that there are")
