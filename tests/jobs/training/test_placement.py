import sys
from types import ModuleType, SimpleNamespace

import pytest

from slimctl.jobs.training import placement
from slimctl.jobs.training.placement import free_placement, placement_mark


class Groups:
    """Reservations of a cluster; a dying controller makes `late` more after a removal."""

    def __init__(self) -> None:
        self.held: dict[str, dict] = {}
        self.late = 0

    def add(self, memory: float | None, state: str = "CREATED") -> str:
        name = f"{len(self.held):02x}"
        bundle = {"CPU": 1.0} | ({"memory": memory} if memory else {})
        self.held[name] = {"state": state, "bundles": {0: bundle}}
        return name

    def remove(self, group) -> None:
        memory = self.held[group.name]["bundles"][0]["memory"]
        self.held[group.name]["state"] = "REMOVED"
        if self.late:
            self.late -= 1
            self.add(memory)

    @property
    def alive(self) -> list[str]:
        return [name for name, group in self.held.items() if group["state"] != "REMOVED"]


@pytest.fixture
def groups(monkeypatch) -> Groups:
    made = Groups()
    core, util = ModuleType("core"), ModuleType("util")
    core.PlacementGroupID = lambda data: data.hex()
    util.PlacementGroup = lambda name: SimpleNamespace(name=name)
    util.placement_group_table = lambda: made.held
    util.remove_placement_group = made.remove
    monkeypatch.setitem(sys.modules, "ray._raylet", core)
    monkeypatch.setitem(sys.modules, "ray.util.placement_group", util)
    monkeypatch.setattr(placement, "SETTLE_S", 0.0)
    return made


def test_marks_are_small_and_differ():
    marks = {placement_mark(f"train_flow-{number}") for number in range(500)}
    assert len(marks) > 495
    assert all(2**20 <= mark < 3 * 2**20 for mark in marks)
    assert placement_mark("a") == placement_mark("a")


def test_only_what_a_job_left_is_freed(groups):
    mine = groups.add(placement_mark("train_flow-1"))
    other = groups.add(placement_mark("train_flow-2"))
    plain = groups.add(None)
    groups.add(placement_mark("train_flow-1"), "REMOVED")
    assert mine in groups.alive
    assert free_placement("train_flow-1") == 1
    assert groups.alive == [other, plain]
    assert free_placement("train_flow-1") == 0


def test_a_reservation_that_comes_late_is_freed_too(groups):
    groups.add(placement_mark("train_flow-1"))
    groups.late = 2
    assert free_placement("train_flow-1") == 3
    assert groups.alive == []
