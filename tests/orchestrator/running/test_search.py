"""Searches in a run without Ray: their trials are jobs of the one scheduler."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import ray.tune.schedulers
import ray.tune.search.optuna  # noqa: F401  (found by name when a stand-in takes the place of Ray)
from fake_ray import Future
from supervised import FLAKY, LOST, RUN, WRONG, World, states, wait_until

from slimctl.jobs.base.artifacts import SweepReport
from slimctl.jobs.base.cluster import Needs
from slimctl.jobs.base.context import SilentReporter
from slimctl.jobs.execution import JobOutcome, JobRequest, execute
from slimctl.jobs.search.sizes import look
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training.score_curve import note_score
from slimctl.orchestrator.pipeline.pipeline import parse_pipeline, resolve
from slimctl.orchestrator.planning.graph import Graph
from slimctl.orchestrator.planning.plan import RunPlan, make_plan
from slimctl.orchestrator.running import search
from slimctl.orchestrator.running.launcher import Launched
from slimctl.orchestrator.runs.status import RunStatus

TEXT = """
name: digits
tracking: null
jobs:
  data: {kind: load_dataset, source: digits, max_images: 40}
  sizes:
    kind: sweep
    space: {count: {choice: [20, 30, 10]}, bandwidth: {choice: [0.1]}}
    jobs:
      flow: {kind: analytic_flow, data: some, bandwidth: "${bandwidth}"}
      some: {kind: load_dataset, source: digits, max_images: "${count}"}
    minimize: some.count
    parallel: 2
"""
OPTUNA = "jobs.sizes.search={kind: optuna, trials: 6}"
RANGE = "jobs.sizes.space.count={randint: [5, 60]}"


class SearchWorld(World):
    """Jobs are really done in this process, unless the script has a word for them."""

    def __init__(self, monkeypatch, storage):
        super().__init__(monkeypatch, storage)
        self.stopped: list[str] = []
        monkeypatch.setattr(search, "ask_sizes", self.look)
        self.before = lambda request: None

    def plan(self, text: str = TEXT, *overrides: str) -> RunPlan:
        pipeline = resolve(parse_pipeline(text, "a.yaml", overrides, self.storage).pipeline)
        made = make_plan(pipeline, Graph.of(pipeline), Store(pipeline.storage))
        return made.model_copy(update={"tracking": None})

    def go(self, text: str = TEXT, *overrides: str) -> RunStatus:
        return self.run(*self.plan(text, *overrides).jobs)

    def launch(self, request: JobRequest, placement: str, needs: Needs) -> Launched:
        self.before(request)
        name = request.job
        self.launched.append(name)
        self.running.add(name)
        self.most_running = max(self.most_running, len(self.running))
        quiet = replace(request, reporter=SilentReporter())
        ends = self.script.get(name)
        ended: JobOutcome | Exception = ends.pop(0) if ends else execute(quiet)
        future = Future(ended, lambda: not self.held(name))
        return Launched(name, request.artifact_id, future, None, needs, shared=True)

    def stop(self, launched: Launched) -> None:
        self.running.remove(launched.job)
        self.stopped.append(launched.job)

    def look(self, gpus: int, *arguments: object) -> Future:
        assert gpus == 0
        return Future(look(*arguments))

    def report(self, status: RunStatus) -> SweepReport:
        return Store(self.storage).load(status.jobs["sizes"].artifact, SweepReport)


@pytest.fixture
def world(monkeypatch, tmp_path: Path) -> SearchWorld:
    return SearchWorld(monkeypatch, str(tmp_path / "store"))


def test_trials_are_jobs_named_like_those_of_a_group(world):
    status = world.go()
    assert set(states(status).values()) == {"done"}
    assert list(status.jobs)[:2] == ["data", "sizes"]
    some = "sizes.count=30.bandwidth=0.1.some"
    assert status.jobs[some].search == "sizes"
    assert status.jobs["sizes.count=30.bandwidth=0.1.flow"].after == [some]
    report = world.report(status)
    assert [trial.values["count"] for trial in report.trials] == [20, 30, 10]
    assert [trial.metrics["some.count"] for trial in report.trials] == [20, 30, 10]
    assert report.chosen == 2
    assert list(report.trials[0].artifacts) == ["some", "flow"], "inputs first"
    progress = [one.details for one in world.said("progress") if one.job == "sizes"]
    assert (progress[-1]["done"], progress[-1]["total"]) == (3, 3)
    manifest = Store(world.storage).manifest(status.jobs["sizes"].artifact)
    assert set(report.trials[1].artifacts.values()) <= set(manifest.inputs.values())


def test_as_many_trials_are_under_way_as_asked_for(world):
    world.held = lambda name: name.endswith(".some") and len(world.launched) < 3
    driven = world.start(*world.plan().jobs)
    wait_until(lambda: len(world.launched) == 3)  # data is not needed, but there
    driven._thread.join(20)
    added = [next(iter(event.details["jobs"].values())) for event in world.said("jobs_added")]
    assert [one["values"]["count"] for one in added] == [20, 30, 10]


def test_other_jobs_go_on_beside_a_search(world):
    text = TEXT + "  late: {kind: load_dataset, source: digits, max_images: 50}\n"
    world.held = lambda name: name.startswith("sizes.") and "late" not in world.launched
    assert states(world.go(text))["late"] == "done"


def test_what_the_store_has_is_not_made_again(world):
    first = world.go()
    made = len(world.launched)
    Store(world.storage).blobs.delete(f"artifacts/{first.jobs['sizes'].artifact}")
    world.resumption = "again"
    second = world.go()
    assert world.launched[made:] == ["sizes"]
    assert world.report(second) == world.report(first)


def test_trials_of_a_finished_search_are_reused_jobs(world):
    first = world.go()
    plan = world.plan()
    assert plan.idle
    trials = {job.name: job for job in plan.jobs if job.search}
    assert trials.keys() == {name for name, job in first.jobs.items() if job.search}
    assert trials["sizes.count=10.bandwidth=0.1.some"].values == {"count": 10, "bandwidth": 0.1}


def test_a_trial_that_fails_does_not_stop_the_others(world):
    broken = "sizes.count=30.bandwidth=0.1.some"
    world.script = {broken: [WRONG]}
    status = world.go()
    assert status.state == "done"
    assert states(status)[broken] == "failed"
    assert states(status)["sizes.count=30.bandwidth=0.1.flow"] == "blocked"
    trial = world.report(status).trials[1]
    assert (trial.state, trial.why, trial.artifacts) == ("failed", "some: no such class", {})
    assert any("failed: some: no such class" in one.details["message"] for one in world.said("log"))


def test_one_policy_of_retries(world):
    flaky = "sizes.count=20.bandwidth=0.1.some"
    world.script = {flaky: [FLAKY, LOST], "sizes": [LOST]}
    status = world.go()
    assert set(states(status).values()) == {"done"}
    assert status.jobs[flaky].attempt == 3


def test_a_search_without_a_finished_trial_fails_and_can_be_tried_again(world):
    names = [f"sizes.count={count}.bandwidth=0.1.some" for count in (20, 30, 10)]
    world.script = {name: [WRONG] for name in names}
    status = world.go()
    assert (status.state, status.jobs["sizes"].state) == ("failed", "failed")
    assert status.jobs["sizes"].message == "no trial was finished; the first: some: no such class"
    world.resumption = "once more"
    again = world.go()
    assert set(states(again).values()) == {"done"}
    assert {trial.state for trial in world.report(again).trials} == {"done"}


def test_a_supervisor_that_comes_back_goes_on(world):
    calm = world.report(world.go(TEXT, OPTUNA, RANGE))
    calm_store, world.storage = world.storage, world.storage + "-2"
    assert calm_store != world.storage
    world.launched.clear()
    world.held = lambda name: len(world.launched) > 5
    plan = world.plan(TEXT, OPTUNA, RANGE)
    gone = world.start(*plan.jobs)
    wait_until(lambda: len(world.launched) > 5)
    gone._journal.superseded = True  # as if another had taken over
    gone._thread.join(20)
    world.held = lambda name: False
    made = {name for name in world.launched if name.endswith("some")}
    status = world.run(*plan.jobs)
    report = world.report(status)
    assert [trial.values for trial in report.trials] == [trial.values for trial in calm.trials]
    assert len(report.trials) == 6
    twice = [name for name in made if world.launched.count(name) > 2]
    assert not twice, "at most what was under way is asked for again"


def test_a_cancelled_search_is_resumed(world):
    world.held = lambda name: name.startswith("sizes.count=30")
    driven = world.start(*world.plan().jobs)
    wait_until(lambda: "sizes.count=30.bandwidth=0.1.some" in world.launched)
    driven.cancel()
    driven._thread.join(20)
    found = states(driven.status())
    assert found["sizes"] == found["sizes.count=30.bandwidth=0.1.some"] == "cancelled"
    world.held = lambda name: False
    world.resumption = "again"
    status = world.run(*world.plan().jobs)
    assert (status.state, status.jobs["sizes"].state) == ("done", "done")
    assert set(states(status).values()) <= {"done", "reused"}
    assert len(world.report(status).trials) == 3


def test_optuna_is_taken_up_by_what_is_noted(world):
    first = world.report(world.go(TEXT, OPTUNA, RANGE, "jobs.sizes.parallel=1"))
    work = Store(world.storage)
    notes = sorted(work.blobs.names("work"))
    assert notes == [], "they are gone once the report is there"
    assert len(first.trials) == 6
    assert all(5 <= trial.values["count"] <= 60 for trial in first.trials)
    assert first.chosen is not None


def test_equal_values_are_one_trial(world):
    status = world.go(TEXT, "jobs.sizes.search={kind: random, trials: 7}")
    report = world.report(status)
    assert len(report.trials) == 7
    counts = {trial.values["count"] for trial in report.trials}
    assert len([name for name in world.launched if name.endswith(".some")]) == len(counts)


LIMITED = """
name: digits
tracking: null
jobs:
  data: {kind: load_dataset, source: digits, max_images: 40}
  features: {kind: train_features, data: data, steps: 1}
  flow: {kind: analytic_flow, data: data, bandwidth: 0.1}
  sizes:
    kind: sweep
    space: {width: {choice: [8, 200]}, rate: {choice: [0.1, 0.2]}}
    jobs:
      student: {kind: train_flow, data: data, network: {kind: mlp, width: "${width}"}, steps: 2,
                learning_rate: "${rate}", workers: 1, shared: true}
      quality: {kind: evaluate, model: student, data: data, features: features, samples: 20,
                solver: {kind: euler, steps: 1}}
    minimize: student.parameters
    subject_to: {quality.parameters: {max: 20000}}
"""


def skip(world: SearchWorld) -> None:
    """Ends trainings and measurements at once, without results."""
    names = (f"sizes.width={width}.rate={rate}" for width in (8, 200) for rate in (0.1, 0.2))
    world.script |= {f"{name}.student": [WRONG] for name in names} | {"features": [WRONG]}


def test_sizes_beyond_the_limits_are_ruled_out_and_said_once(world):
    world.script = {"features": [JobOutcome("a")]}
    text = LIMITED.replace("features: {kind: train_features, data: data, steps: 1}", "")
    text = text.replace("  \n", "").replace("features: features, ", "features: f, ")
    text = text.replace("  flow:", "  f: {kind: train_features, data: data, steps: 1, "
                        "network: {channels: 4, features: 4}}\n  flow:")  # fmt: skip
    skip(world)
    status = world.go(text)
    assert status.jobs["sizes"].message.startswith("no trial was finished")
    said = [one.details["message"] for one in world.said("log") if "ruled out" in str(one.details)]
    assert len(said) == 1
    assert said[0].startswith("width 200, rate 0.1: ruled out: quality.parameters is ")
    assert not [name for name in status.jobs if "width=200" in name]
    progress = [one.details for one in world.said("progress") if one.job == "sizes"]
    assert progress[-1]["total"] == 2, "what is ruled out is no work"


def test_limits_that_nothing_meets_say_how_close_it_comes(world):
    text = LIMITED.replace("max: 20000", "max: 10").replace("steps: 1}\n  flow", "steps: 1, "
                           "network: {channels: 4, features: 4}}\n  flow")  # fmt: skip
    status = world.go(text)
    job = status.jobs["sizes"]
    assert job.state == "failed"
    assert "the nearest is width 8, rate 0.1: quality.parameters is" in job.message
    assert job.where == "job 'sizes', subject_to"


HALVED = """
name: digits
tracking: null
jobs:
  data: {kind: load_dataset, source: digits, max_images: 40}
  flow: {kind: analytic_flow, data: data, bandwidth: 0.1}
  pairs: {kind: generate_pairs, flow: flow, count: 16, solver: {kind: euler, steps: 1}}
  sizes:
    kind: sweep
    space: {rate: {choice: [0.001, 0.002, 0.003]}}
    jobs:
      student:
        {kind: anneal_reflow, pairs: pairs, data: data, network: {kind: mlp, width: 8}, steps: 30,
         score_every: 10, learning_rate: "${rate}"}
      after: {kind: distill, pairs: pairs, start: student, two_step_weight: 0, steps: 1}
    minimize: after.parameters
    scheduler: {kind: asha, watch: student, grace_period: 10, reduction_factor: 2}
    parallel: 1
"""


def test_trainings_that_fall_behind_are_stopped(world):
    scores = {"0.001": 1.0, "0.002": 5.0, "0.003": 0.5}
    store = Store(world.storage)

    def before(request: JobRequest) -> None:
        if request.job.endswith(".student"):
            rate = next(key for key in scores if f"rate={key}" in request.job)
            note_score(store.work(request.artifact_id), 10, scores[rate])

    world.before = before
    world.script = {"pairs": [JobOutcome("a")]}
    good = ("rate=0.001", "rate=0.003")
    for name in good:
        world.script |= {f"sizes.{name}.student": [WRONG]}
    heard = iter(range(1000))
    world.held = lambda name: (
        name.endswith(".student") and ("0.002" in name or next(heard) % 30 < 25)
    )
    status = world.go(HALVED)
    found = states(status)
    assert world.stopped == ["sizes.rate=0.002.student"]
    assert found["sizes.rate=0.002.student"] == found["sizes.rate=0.002.after"] == "stopped"
    assert found["sizes.rate=0.003.student"] == "failed", "as the script says: it was not stopped"
    notes = sorted(store.work(status.jobs["sizes"].artifact).below("trials").names(""))
    kept = json.loads(store.work(status.jobs["sizes"].artifact).below("trials").read(notes[1]))
    assert kept["trial"]["state"] == "stopped"
    assert kept["trial"]["why"] == "its scores fell behind those of other trials"
    assert kept["trial"]["scores"] == [[10, 5.0]]
    assert RUN
