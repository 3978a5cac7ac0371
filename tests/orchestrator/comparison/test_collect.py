import pytest
from builders import RUN
from measured import put, put_run

from slimctl.jobs.base.artifacts import SweepReport, Trial
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.orchestrator.comparison.collect import collect
from slimctl.orchestrator.graph import identities
from slimctl.orchestrator.pipeline import Pipeline, parse_pipeline, resolve


def jobs(store, *things: str) -> list[str]:
    return [result.job for result in collect(store, list(things), {}).results]


@pytest.mark.parametrize(
    ("thing", "count"),
    [
        ("", 6),
        (RUN, 6),
        ("digits", 6),
        (f"{RUN}/students", 6),
        (f"{RUN}/students.quality", 6),
        (f"{RUN}/students.width=8.seed=0.quality", 1),
    ],
)
def test_what_can_be_named(store, thing, count):
    assert len(jobs(store, *([thing] if thing else []))) == count


def test_names_that_mean_nothing(store):
    with pytest.raises(UserError, match="there is no run 'nope'"):
        jobs(store, "nope")
    with pytest.raises(UserError, match="has no job or group 'data' that measures anything"):
        jobs(store, f"{RUN}/data")


def test_what_failed_is_not_forgotten(store):
    put_run(store, "x-20260102-120000-aaaa", {"q": "evaluate-w8s0"}, {"late": "it broke"})
    found = collect(store, ["x"], {})
    assert [(one.job, one.state, one.why) for one in found.missing] == [
        ("late", "failed", "it broke")
    ]
    put_run(store, "y-20260102-120000-aaaa", {}, {"late": "it broke"})
    with pytest.raises(UserError, match=r"nothing has been measured; 1 evaluation\(s\) are not"):
        collect(store, ["y"], {})


TEXT = """\
name: digits
jobs:
  data: {kind: load_dataset, source: digits}
  features: {kind: train_features, data: data, steps: 3}
  teacher: {kind: analytic_flow, data: data}
  group:
    for_each: {steps: [1, 2]}
    jobs:
      quality: {kind: evaluate, model: teacher, data: data, features: features, samples: 50,
                solver: {kind: euler, steps: "${steps}"}}
"""


def test_a_pipeline_names_what_it_would_make(store):
    pipeline: Pipeline = resolve(parse_pipeline(TEXT, "f.yaml", (), store.uri).pipeline)
    ids = identities(pipeline)
    assert isinstance(pipeline.specs["group.steps=1.quality"], Evaluate)
    report = store.load_any("evaluate-w8s0")
    manifest = {"kind": "evaluate", "version": 1, "spec": {}, "inputs": {}, "wall_s": 1}
    made = ids["group.steps=1.quality"].id
    store.commit(made, report, store.stage(), {**manifest, "device_s": 1})
    found = collect(store, ["dir/f.yaml"], {"dir/f.yaml": pipeline})
    assert [result.name for result in found.results] == ["f.yaml/group.steps=1.quality"]
    assert [(one.job, one.state) for one in found.missing] == [
        ("group.steps=2.quality", "not made yet")
    ]


def test_trials_of_a_sweep_are_results(store):
    trials = (
        Trial(values={"width": 8}, state="done", artifacts={"quality": "evaluate-w8s0"}),
        Trial(values={"width": 9}, state="failed", why="student: it broke"),
    )
    report = SweepReport(objectives=("quality.fid",), trials=trials, chosen=0, front=(0,))
    put(store, "sweep-s0", report, {}, {})
    put_run(store, "z-20260102-120000-aaaa", {"sizes": "sweep-s0"}, {})
    found = collect(store, ["z"], {})
    assert [result.job for result in found.results] == ["sizes.width=8.quality"]
    assert [(one.job, one.state, one.why) for one in found.missing] == [
        ("sizes.width=9", "failed", "student: it broke")
    ]
