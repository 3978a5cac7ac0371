"""Who gets which item and when it runs alone; actors that die are in the tests on Ray."""

from types import SimpleNamespace

import pytest

from slimctl.jobs.pairs.pool import IN_FLIGHT, Pool


class Actor:
    """Keeps the items that it is given."""

    def __init__(self):
        self.given = []
        self.make = SimpleNamespace(remote=self._take)
        self.ready = SimpleNamespace(remote=object)

    def _take(self, item):
        self.given.append(item)
        return object()


@pytest.mark.parametrize(
    ("items", "answered", "given"),
    [
        (2, 1, [1, 0]),  # the second is for the actor that is still starting
        (2, 2, [1, 1]),
        (3, 1, [2, 0]),
        (9, 1, [2, 0]),
        (9, 2, [2, 2]),  # one to work on, one to go on with
    ],
)
def test_the_first_to_answer_does_not_take_everything(items, answered, given):
    actors = [Actor(), Actor()]
    pool = Pool[int](actors, "it")
    for number in range(2):
        pool._probe(number)
    for future in list(pool._probes)[:answered]:
        pool._load[pool._probes.pop(future)] = 0
    waiting = list(range(items))
    pool._hand_out(waiting)
    assert [len(actor.given) for actor in actors] == given
    assert len(waiting) == items - sum(given)


def pool_of(count):
    """A pool whose actors have all answered."""
    actors = [Actor() for _ in range(count)]
    pool = Pool[int](actors, "it")
    pool._suspicion.lost = set
    pool._load = dict.fromkeys(range(count), 0)
    return pool, actors


def test_a_suspect_gets_an_actor_to_itself():
    pool, actors = pool_of(2)
    pool._suspicion.was_in_hand(0, 1, alone=False)
    pool._hand_out([0, 1, 2, 3][::-1])
    assert [actor.given for actor in actors] == [[0], [1, 2]]
    assert pool._load == {0: IN_FLIGHT, 1: IN_FLIGHT}


def test_those_that_died_alone_run_one_at_a_time_and_elsewhere_if_they_can(monkeypatch):
    pool, actors = pool_of(3)
    for item in (0, 1):
        pool._suspicion.was_in_hand(item, 0, alone=True)
    waiting = [1, 0]
    pool._hand_out(waiting)
    assert waiting == [1, 0], "there is a pause first"
    monkeypatch.setattr("slimctl.jobs.pairs.pool.PAUSE_S", 0.0)
    pool._hand_out(waiting)
    assert [actor.given for actor in actors] == [[], [0], []]
    waiting = [1, 7]
    pool._hand_out(waiting)
    assert [actor.given for actor in actors] == [[7], [0], []]
    assert waiting == [1]
