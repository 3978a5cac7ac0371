import pytest

from slimctl.jobs.base import deaths
from slimctl.jobs.base.deaths import MOST, DeathWatch

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
    assert death.fix
    assert "out of memory" not in watch.explain(RuntimeError(KILLED)).what, "a kill counts once"


def test_another_death_keeps_rays_reason(kills):
    death = DeathWatch().explain(RuntimeError(KILLED))
    assert death.what.startswith(
        "its worker died: RuntimeError: The actor is dead because its worker process has died. "
        "Worker exit type: SYSTEM_ERROR Worker exit detail: connection error code 2."
    )
    assert death.fix == ""
    long = DeathWatch().explain(RuntimeError("x" * 5000), "Ray Train failed").what
    assert long.startswith("Ray Train failed: RuntimeError: xxx")
    assert len(long) < MOST + 60
