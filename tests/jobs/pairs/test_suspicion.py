"""Which deaths count against an item, on a clock of the test's."""

import pytest

from slimctl.jobs.pairs import pool
from slimctl.jobs.pairs.pool import CONVICTING, PAUSE_S, TOGETHER_S, Life, Suspicion

LONG_S = 100.0


class World:
    """Actors 0 and 1, each on a node of its own."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.gone = set()
        self.pid = 0
        self.suspicion = Suspicion[int](lambda: self.gone)
        monkeypatch.setattr(pool.time, "monotonic", lambda: self.now)
        for actor in (0, 1):
            self.back(actor)

    def back(self, actor, *, life=None, node=""):
        """The actor answers, as another process unless said otherwise."""
        self.pid += 1
        self.suspicion.answered(actor, life or Life(node or f"node {actor}", self.pid))

    def dies(self, *items, actor=0, alone=True):
        self.suspicion.ended(actor)
        for item in items:
            self.suspicion.was_in_hand(item, actor, alone=alone)

    def died_alone(self, item, actor=0, times=1):
        for _ in range(times):
            self.now += LONG_S
            self.dies(item, actor=actor)
            self.back(actor)


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_an_item_that_kills_whenever_it_runs_alone_is_convicted(world):
    world.died_alone(5, times=CONVICTING - 1)
    assert not world.suspicion.is_convicted(5)
    world.died_alone(5)
    assert world.suspicion.is_convicted(5)


def test_deaths_in_company_make_suspects_only(world):
    for _ in range(20):
        world.now += LONG_S
        world.dies(5, 6, alone=False)
        world.back(0)
    assert world.suspicion.is_suspect(5)
    assert not world.suspicion.is_convicted(5)


def test_a_node_that_goes_clears_its_items(world):
    """At the time of the death nobody knows: Ray takes seconds to notice."""
    for number in range(9):
        world.now += LONG_S
        world.dies(5)
        assert world.suspicion.is_suspect(5)
        world.gone.add(f"node {number}")
        assert not world.suspicion.is_suspect(5)
        world.back(0, node=f"node {number + 1}")
    assert not world.suspicion.is_convicted(5)


def test_a_death_counts_once_the_actor_is_back(world):
    """Until then the cluster may not have noticed that the node is gone."""
    world.died_alone(5, times=CONVICTING - 1)
    world.now += LONG_S
    world.dies(5)
    assert not world.suspicion.is_convicted(5)
    world.back(0)
    assert world.suspicion.is_convicted(5)


@pytest.mark.parametrize("gap", [0.0, TOGETHER_S / 2])
def test_actors_that_end_together_end_of_something_else(world, gap):
    for _ in range(9):
        world.now += LONG_S
        world.dies(5)
        world.now += gap
        world.dies(8, actor=1, alone=False)
        world.back(0)
        world.back(1)
    assert not world.suspicion.is_convicted(5)


def test_an_idle_actor_that_ended_too_is_company(world):
    """It is found out when it answers as another process."""
    for _ in range(9):
        world.now += LONG_S
        world.dies(5)
        world.back(0)
        world.back(1)
    assert not world.suspicion.is_convicted(5)


def test_a_connection_that_broke_is_no_death(world):
    life = Life("node 0", 77)
    world.back(0, life=life)
    for _ in range(9):
        world.now += LONG_S
        world.dies(5)
        world.back(0, life=life)
    assert not world.suspicion.is_suspect(5)


def test_actors_that_tell_nothing_of_themselves_convict_all_the_same(world):
    for _ in range(CONVICTING):
        world.now += LONG_S
        world.suspicion.answered(0, True)
        world.dies(5)
    world.suspicion.answered(0, True)
    assert world.suspicion.is_convicted(5)


def test_the_pause_before_the_next_run_doubles(world):
    for number in range(3):
        world.died_alone(5)
        at = world.now
        world.now = at + PAUSE_S * 2**number * 0.99
        assert not world.suspicion.may_run(5)
        world.now = at + PAUSE_S * 2**number
        assert world.suspicion.may_run(5)
