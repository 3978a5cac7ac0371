"""Who gets which item; actors that die are in the tests on Ray."""

from types import SimpleNamespace

import pytest

from jobs.pairs.pool import Pool


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
