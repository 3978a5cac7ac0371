from slimctl.jobs.base.artifacts import Trial
from slimctl.jobs.search.choose import best, front, within
from slimctl.jobs.search.spec import Limit


def trial(fid: float, size: float, state: str = "done") -> Trial:
    return Trial(values={}, state=state, metrics={"q.fid": fid, "q.size": size})


TRIALS = [trial(3, 10), trial(1, 30), trial(2, 20), trial(2.5, 25), trial(0, 0, "failed")]
SMALL = {"q.size": Limit(max=20)}


def test_the_lowest_within_the_limits_is_chosen():
    assert best(TRIALS, "q.fid", {}) == 1
    assert best(TRIALS, "q.fid", SMALL) == 2
    assert best(TRIALS, "q.fid", {"q.size": Limit(max=5)}) is None
    assert best(TRIALS, "q.other", {}) is None


def test_the_front_holds_what_nothing_beats():
    assert front(TRIALS, ("q.fid", "q.size"), {}) == (0, 1, 2)
    assert front(TRIALS, ("q.fid", "q.size"), SMALL) == (0, 2)
    assert front([trial(1, 1), trial(1, 1)], ("q.fid", "q.size"), {}) == (0, 1)


def test_a_limit_needs_the_number():
    assert within({"a": 1.0}, {"a": Limit(min=0, max=1)})
    assert not within({"a": 1.0}, {"b": Limit(max=5)})
    assert Limit(min=2).excess(1.5) == 0.5
    assert str(Limit(min=1, max=2)) == "at least 1 and at most 2"
