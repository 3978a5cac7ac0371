import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from builders import dataset, put
from fake_ray import ActorUnavailableError, Clock, FakeRay, RayActorError

from slimctl import Pipeline
from slimctl import submit as package_submit
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.errors import DamagedArtifact, JobFailed, SlimError, UserError
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems
from slimctl.orchestrator.pipeline.pipeline import parse_pipeline, resolve
from slimctl.orchestrator.planning.graph import identities
from slimctl.orchestrator.planning.plan import RunPlan
from slimctl.orchestrator.running.submission import Submission, check_result, submit
from slimctl.orchestrator.running.supervisor import RunRequest
from slimctl.orchestrator.runs.events import Event, EventLog, read_events
from slimctl.orchestrator.runs.runs import read_pipeline, run_ids, run_lease
from slimctl.orchestrator.runs.status import JobStatus, RunStatus, fold

module = sys.modules["slimctl.orchestrator.running.submission"]
TEXT = "name: digits\njobs:\n  data: {kind: load_dataset, source: digits}\n"


class FakeSupervisor:
    """Ends a run as it is said, one event each time that it is asked."""

    trouble: tuple[Exception, ...] = ()
    ending = "done"
    mute = False

    def __init__(self, request: RunRequest) -> None:
        self.blobs = Store(request.plan.storage).blobs
        self.run = request.run
        self.troubles = list(self.trouble)
        if self.mute:
            return
        run_lease(self.blobs, request.run).renew()
        log = EventLog(self.blobs, request.run)
        jobs = {
            j.name: {"kind": j.kind, "key": j.key, "artifact": j.artifact}
            for j in request.plan.jobs
        }
        log.add("run_started", name=request.plan.name, jobs=jobs)
        log.add("job_started", "data", attempt=1)
        log.add(f"job_{self.ending}", "data", what="it broke")
        log.add("run_ended", state=self.ending)
        log.flush()
        self.events = log.events
        self.said = 0

    def accepted(self) -> bool:
        return True

    def is_over(self) -> bool:
        if self.troubles:
            raise self.troubles.pop(0)
        return self.said == len(self.events)

    def events_since(self, number: int) -> list[Event]:
        assert number == self.said, "nothing is said twice or left out"
        self.said = min(self.said + 1, len(self.events))
        return self.events[number : self.said]

    def status(self) -> RunStatus:
        return fold(self.run, self.events)


@pytest.fixture
def ray(monkeypatch) -> FakeRay:
    fake = FakeRay(Clock())
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(module, "POLL_S", 0.0)
    monkeypatch.setattr(module, "Supervisor", FakeSupervisor)
    fake.addresses = []

    @contextmanager
    def connect(address):
        fake.addresses.append(address)
        yield Cluster(cpus=2)

    monkeypatch.setattr(module, "connect", connect)
    fake.checked = []
    monkeypatch.setattr(module, "check_shared", lambda store: fake.checked.append(store.uri))
    return fake


def pipeline_in(storage: Path, text: str = TEXT) -> Pipeline:
    return parse_pipeline(text, "digits.yaml", (), str(storage)).pipeline


def finish(pipeline: Pipeline) -> None:
    put(Store(pipeline.storage), identities(resolve(pipeline))["data"].id, dataset())


def test_a_run_is_followed_to_its_end(ray, tmp_path):
    heard: list[Event] = []
    planned: list[tuple[RunPlan, str]] = []
    made = submit(
        pipeline_in(tmp_path), listener=heard.append, on_plan=lambda *said: planned.append(said)
    )
    assert made.started_ray
    assert (made.status.state, made.status.jobs["data"].state) == ("done", "done")
    assert [event.name for event in heard] == [
        "run_started",
        "job_started",
        "job_done",
        "run_ended",
    ]
    assert [(plan.name, run) for plan, run in planned] == [("digits", made.run)]
    store = Store(str(tmp_path))
    assert list(read_events(store.blobs, made.run)) == heard
    assert "source: digits" in read_pipeline(store.blobs, made.run)
    assert ray.killed == ray.actors
    check_result(made)


@pytest.mark.parametrize(
    ("address", "lifetime", "restarts"), [(None, None, -1), ("auto", "detached", -1)]
)
def test_only_on_a_cluster_the_supervisor_outlives_the_program(
    ray, tmp_path, address, lifetime, restarts
):
    made = submit(pipeline_in(tmp_path), address=address)
    assert ray.addresses == [address]
    options = ray.actors[0].options
    assert (options["lifetime"], options["max_restarts"]) == (lifetime, restarts)
    assert options["name"] == f"supervisor-{made.run}"
    assert options["num_cpus"] == 0


def test_a_supervisor_that_is_away_for_a_while_is_waited_for(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeSupervisor, "trouble", (ActorUnavailableError("restarting"),) * 3)
    assert submit(pipeline_in(tmp_path), address="auto").status.state == "done"


def test_a_supervisor_that_died_is_our_bug(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeSupervisor, "trouble", (RayActorError("killed"),))
    monkeypatch.setattr(FakeSupervisor, "mute", True)
    with pytest.raises(SlimError, match="its supervisor died: killed") as caught:
        submit(pipeline_in(tmp_path))
    assert caught.value.exit_code == 1
    assert "finished work is kept" in caught.value.fix


def test_a_supervisor_that_left_after_its_run_was_over_is_no_trouble(ray, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeSupervisor, "trouble", (RayActorError("it left"),))
    assert submit(pipeline_in(tmp_path), address="auto").status.state == "done"


def test_a_detached_run_is_left_alone_once_it_is_on_record(ray, tmp_path):
    made = submit(pipeline_in(tmp_path), address="auto", detach=True)
    assert made.run == run_ids(Store(str(tmp_path)).blobs)[0]
    assert ray.killed == []
    assert ray.checked == [str(tmp_path)]


def test_a_private_ray_cannot_be_detached_from(ray, tmp_path):
    with pytest.raises(UserError, match="ends with this program") as caught:
        submit(pipeline_in(tmp_path), detach=True)
    assert "--address" in caught.value.fix
    assert run_ids(Store(str(tmp_path)).blobs) == []


def test_nothing_to_do_does_not_start_ray(ray, tmp_path):
    pipeline = pipeline_in(tmp_path)
    finish(pipeline)
    planned: list[str] = []
    made = submit(pipeline, on_plan=lambda _, run: planned.append(run))
    assert not made.started_ray
    assert ray.addresses == []
    assert planned == [made.run]
    assert made.status.state == "done"
    assert made.status.jobs["data"].state == "reused"
    check_result(made)
    assert submit(pipeline).run == made.run, "the same run is named again"
    assert run_ids(Store(str(tmp_path)).blobs) == [made.run]


def test_nothing_to_do_in_a_storage_that_cannot_be_written(ray, tmp_path, monkeypatch):
    pipeline = pipeline_in(tmp_path)
    finish(pipeline)

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("slimctl.jobs.storage.blobs.LocalBlobs.write", refuse)
    made = submit(pipeline)
    assert made.status.state == "done"
    assert made.status.jobs["data"].state == "reused"


def test_a_storage_that_cannot_be_written_is_refused_before_anything_starts(ray, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    planned: list[str] = []
    with pytest.raises(UserError, match="cannot be written") as caught:
        submit(pipeline_in(tmp_path / "file" / "store"), on_plan=lambda _, run: planned.append(run))
    assert str(tmp_path / "file") in caught.value.where
    assert "--storage" in caught.value.fix
    assert ray.addresses == planned == []


def test_input_that_is_not_there_is_refused_before_anything_starts(ray, tmp_path):
    text = TEXT.replace("digits}", "./nowhere}")
    with pytest.raises(PipelineProblems, match="nowhere"):
        submit(pipeline_in(tmp_path, text))
    assert ray.addresses == []


def test_an_interrupted_private_run_is_not_alive(ray, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    for address, alive in ((None, False), ("auto", True)):
        monkeypatch.setattr(module, "follow_run", interrupted)
        named: list[str] = []

        def remember(plan: RunPlan, run: str, named: list[str] = named) -> None:
            named.append(run)
            run_lease(Store(plan.storage).blobs, run).renew()

        with pytest.raises(KeyboardInterrupt):
            submit(pipeline_in(tmp_path), address=address, on_plan=remember)
        assert run_lease(Store(str(tmp_path)).blobs, named[0]).is_alive() == alive


def test_submit_is_offered_by_the_package():
    assert package_submit is submit


# What a failed run ends with


def submission(state: str = "failed", message: str = "", **failures: str) -> Submission:
    jobs = {
        name: JobStatus(
            kind="x", key="k", artifact="a", state="failed" if failure else "blocked",
            failure=failure, message=f"{name} broke", fix=f"repair {name}" if failure else "",
        )
        for name, failure in failures.items()
    }  # fmt: skip
    status = RunStatus(run="run-1", state=state, ended=1.0, message=message, jobs=jobs)
    plan = RunPlan(name="x", storage="/s", tracking=None, jobs=())
    return Submission("run-1", status, plan, started_ray=True)


@pytest.mark.parametrize(
    ("failures", "kind", "code"),
    [
        ({"a": "UserError"}, UserError, 2),
        ({"a": "UserError", "b": "UserError"}, UserError, 2),
        ({"a": "DamagedArtifact"}, DamagedArtifact, 3),
        ({"a": "JobFailed"}, JobFailed, 4),
        ({"a": "TrainingDiverged"}, JobFailed, 4),
        ({"a": "WorkLost"}, JobFailed, 4),
        ({"a": "UserError", "b": "ValueError"}, JobFailed, 4),
    ],
)
def test_the_exit_code_follows_from_the_failures(failures, kind, code):
    with pytest.raises(SlimError) as caught:
        check_result(submission(**failures))
    assert type(caught.value) is kind
    assert caught.value.exit_code == code


def test_a_failure_names_every_failed_job_and_counts_the_blocked():
    with pytest.raises(JobFailed) as caught:
        check_result(submission(a="JobFailed", b="ValueError", c="", d=""))
    assert str(caught.value) == (
        "run run-1: job 'a' failed: a broke; job 'b' failed: b broke"
        " (2 job(s) that need it did not run)"
        "\n  fix: repair a; repair b"
    )


def test_a_run_that_failed_without_a_failed_job_is_our_bug():
    with pytest.raises(SlimError, match="supervisor: ZeroDivisionError") as caught:
        check_result(submission(message="supervisor: ZeroDivisionError"))
    assert caught.value.exit_code == 1


def test_a_cancelled_run_is_not_a_success():
    with pytest.raises(JobFailed, match="was cancelled"):
        check_result(submission("cancelled"))


def test_a_run_that_another_supervisor_took_over_is_not_over():
    taken = submission("running")
    taken.status.ended = None
    with pytest.raises(JobFailed, match="taken over") as caught:
        check_result(taken)
    assert caught.value.fix == "slimctl logs run-1 -f"


def test_a_run_that_is_done_ends_well():
    check_result(submission("done"))
