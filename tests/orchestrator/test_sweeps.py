from slimctl.jobs.base.artifacts import SweepReport, Trial
from slimctl.orchestrator.sweeps import failed_trials, trial_jobs, verdict

TRIALS = (
    Trial(values={"width": 8}, state="done", artifacts={"q": "evaluate-1"}, metrics={"q.fid": 2.0}),
    Trial(
        values={"width": 16}, state="done", artifacts={"q": "evaluate-2"}, metrics={"q.fid": 1.0}
    ),
    Trial(values={"width": 99}, state="filtered", why="q.parameters is 9, not at most 5"),
    Trial(values={"width": 12}, state="failed", artifacts={"s": "train_flow-3"}, why="q: broke"),
)


def report(**changes: object) -> SweepReport:
    fields = {"objectives": ("q.fid",), "trials": TRIALS, "chosen": 1, "front": (1,)}
    return SweepReport(**{**fields, **changes})


def test_jobs_of_trials_are_called_like_those_of_groups():
    assert [tuple(job) for job in trial_jobs("sizes", report())] == [
        ("sizes.width=8.q", "evaluate-1"),
        ("sizes.width=16.q", "evaluate-2"),
        ("sizes.width=12.s", "train_flow-3"),
    ]
    assert list(failed_trials("sizes", report())) == [("sizes.width=12", "q: broke")]


def test_what_was_found_in_a_sentence():
    count = "(2 of 4 trials done, 1 ruled out by size, 1 failed)"
    assert verdict(report()) == f"width 16 has the lowest q.fid, 1 {count}"
    assert verdict(report(chosen=None)) == f"nothing meets the limits {count}"
    several = report(chosen=None, objectives=("q.fid", "q.size"), front=(0, 1))
    assert verdict(several) == f"on the front of q.fid, q.size: width 8; width 16 {count}"
