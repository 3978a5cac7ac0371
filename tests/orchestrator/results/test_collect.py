import pytest
from builders import RUN
from measured import put_run

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.orchestrator.pipeline.pipeline import Pipeline, parse_pipeline, resolve
from slimctl.orchestrator.planning.graph import identities
from slimctl.orchestrator.results.collect import collect
from slimctl.orchestrator.runs.events import EventLog


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
    """They are jobs of the run; one that fell behind is left out."""
    log = EventLog(store.blobs, "z-20260102-120000-aaaa")
    sweep = {"kind": "sweep", "key": "k", "artifact": "sweep-s0"}
    log.add("run_started", name="z", jobs={"sizes": sweep})
    for width, artifact in ((8, "evaluate-w8s0"), (9, "evaluate-9"), (10, "evaluate-10")):
        name = f"sizes.width={width}.quality"
        job = {"kind": "evaluate", "key": "k", "artifact": artifact, "inputs": {}}
        log.add("jobs_added", "sizes", jobs={name: {**job, "search": "sizes"}})
    log.add("job_done", "sizes.width=8.quality")
    log.add("job_failed", "sizes.width=9.quality", failure="JobFailed", what="it broke")
    log.add("job_stopped", "sizes.width=10.quality", what="behind")
    log.flush()
    found = collect(store, ["z"], {})
    assert [result.job for result in found.results] == ["sizes.width=8.quality"]
    missing = [(one.job, one.state) for one in found.missing]
    assert missing == [("sizes", "waiting"), ("sizes.width=9.quality", "failed")]
    assert len(collect(store, ["z/sizes"], {}).results) == 1
