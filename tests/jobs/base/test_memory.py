from pathlib import Path

import pytest

from slimctl.jobs.base import memory
from slimctl.jobs.base.memory import kernel_kills, memory_limit


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """`machine({"proc/vmstat": ...})` writes the kernel's files."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")

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
    monkeypatch.setattr(memory, "PROC", tmp_path)
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    assert (memory_limit(), kernel_kills()) == (None, 0)
