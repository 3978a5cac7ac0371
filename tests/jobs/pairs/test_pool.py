"""Who gets which item and when it runs alone; actors that die are in the tests on Ray."""

import sys
from types import SimpleNamespace

import pytest

from slimctl.jobs.base.errors import OutOfMemory, Preempted
from slimctl.jobs.pairs import pool as pool_module
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


class Ray:
    """Every call ends at once as `ends` says of its item."""

    class exceptions:  # noqa: N801  (as Ray has it)
        class RayActorError(Exception): ...

        class ActorDiedError(RayActorError): ...

        class OutOfMemoryError(Exception): ...

        class ObjectLostError(Exception): ...

    def wait(self, calls, num_returns, timeout):
        return calls[:1], calls[1:]


@pytest.fixture
def ray(monkeypatch):
    made = Ray()
    monkeypatch.setitem(sys.modules, "ray", made)
    return made


def test_a_pool_that_has_to_leave_ends_what_is_in_hand(ray, monkeypatch):
    monkeypatch.setattr(pool_module, "_value", lambda future: "made")
    asked = iter(["", "SIGTERM came", "SIGTERM came", "SIGTERM came"])
    pool, actors = pool_of(1)
    pool._probe, pool._leaving, made = lambda actor: None, lambda: next(asked), []
    with pytest.raises(Preempted, match="SIGTERM came: 2 item"):
        pool.run(range(4), lambda item, result: made.append(item))
    assert made == actors[0].given == [0, 1]


def test_an_item_that_alone_takes_too_much_memory_is_not_tried_again(ray, monkeypatch):
    def dies(future):
        raise ray.exceptions.OutOfMemoryError("OOM kill reason: it was the largest")

    monkeypatch.setattr(pool_module, "_value", dies)
    pool, actors = pool_of(1)
    pool._probe = lambda actor: pool._load.update({actor: 0})
    pool._suspicion.may_run = lambda item: True
    with pytest.raises(OutOfMemory, match=r"7, run alone: out of memory"):
        pool.run([7], print)
    assert actors[0].given == [7, 7]  # beside others, then alone
