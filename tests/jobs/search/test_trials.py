from slimctl.jobs.base.artifacts import Dataset, Trial
from slimctl.jobs.search.spec import Limit
from slimctl.jobs.search.trials import Note, Notes, best, front, scores_of
from slimctl.jobs.training.score_curve import note_score
from slimctl.models.spec import ImageShape


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
    assert best(TRIALS, "q.fid", {"q.macs": Limit(max=5)}) is None
    assert Limit(min=2).excess(1.5) == 0.5
    assert str(Limit(min=1, max=2)) == "at least 1 and at most 2"


def test_notes_are_read_in_the_order_of_the_proposals(store):
    notes = Notes(store.work("sweep-1"))
    assert notes.read() == []
    first = Note(number=0, values={"a": 1}, after=0)
    second = Note(number=1, values={"a": 2}, after=0)
    notes.write(second)
    notes.write(first)
    store.work("sweep-1").write("trials/0123456789abcdef.json", b"{}")  # of a version before
    assert notes.read() == [first, second]
    ended = first.model_copy(update={"trial": trial(1, 2)})
    notes.write(ended)
    assert notes.read() == [ended, second]


def test_scores_are_those_of_the_store_once_it_has_the_training(store):
    note_score(store.work("train_flow-1"), 20, 3.0)
    note_score(store.work("train_flow-1"), 10, 4.0)
    assert dict(scores_of(store, "train_flow-1")) == {10: 4.0, 20: 3.0}
    handle = Dataset(image=ImageShape(channels=1, size=8), count=5, flip_valid=False)
    details = {"kind": "train_flow", "version": 1, "spec": {}, "inputs": {}, "wall_s": 1.0}
    engine = {"scores": {"10": 4.0, "30": 2.0}}
    store.commit(
        "train_flow-1", handle, store.stage(), {**details, "device_s": 1.0, "engine": engine}
    )
    assert dict(scores_of(store, "train_flow-1")) == {10: 4.0, 30: 2.0}
