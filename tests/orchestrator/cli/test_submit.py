import json
import os
import signal
import sys
import time
from collections.abc import Callable

import pytest

from slimctl.orchestrator.planning.plan import RunPlan
from slimctl.orchestrator.running.notice import SIGNALS
from slimctl.orchestrator.running.submission import Submission
from slimctl.orchestrator.runs.events import Event
from slimctl.orchestrator.runs.status import JobStatus, RunStatus

submission = sys.modules["slimctl.orchestrator.running.submission"]
pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.fixture
def ends(monkeypatch, tmp_path) -> Callable[..., None]:
    """`ends("failed", failure="UserError")`: how the next run ends."""

    def prepare(state: str, **fields: object) -> None:
        job = JobStatus(kind="load_dataset", key="k", artifact="a", state=state, **fields)
        status = RunStatus(run="run-1", state=state, ended=1.0, jobs={"data": job})
        plan = RunPlan(name="digits", storage=str(tmp_path), tracking=None, jobs=())

        def submit(pipeline, *, address, detach, listener, on_plan, on_wait, on_warnings):
            on_plan(plan, "run-1")
            listener(Event(number=0, time=0.0, name="run_ended", details={"state": state}))
            return Submission("run-1", status, plan, started_ray=True)

        monkeypatch.setattr(submission, "submit", submit)

    return prepare


# Files without mistakes


def test_check_says_that_there_are_no_mistakes(slimctl, pipeline_file):
    ended = slimctl("check", pipeline_file)
    assert (ended.code, ended.out, ended.err) == (0, f"{pipeline_file}: 1 job, no mistakes\n", "")
    ended = slimctl("check", pipeline_file, "--json")
    assert json.loads(ended.out) == {"name": "digits", "jobs": ["data"], "warnings": []}


def test_what_is_doubtful_is_a_warning(slimctl, few_images):
    said = slimctl("check", few_images)
    assert (said.code, said.out) == (0, f"{few_images}: 4 jobs, no mistakes, 1 warning\n")
    assert said.err == (
        f"{few_images}:6: warning: job 'quality', data: 'data' has only 20 images for 64 features, "
        "so that their covariance is singular, and a FID against them says little\n"
        "  fix: compare with 100 images or more, better thousands; KID is not biased by few\n"
    )
    planned = slimctl("plan", few_images)
    assert (planned.code, planned.err) == (0, said.err)
    for verb in ("check", "plan"):
        ended = slimctl(verb, few_images, "--json")
        (warning,) = json.loads(ended.out)["warnings"]
        assert (warning["line"], ended.err) == (6, said.err)


def test_a_submission_says_what_is_doubtful_before_it_starts(slimctl, few_images, monkeypatch):
    monkeypatch.setattr(submission, "start", lambda *_, **__: sys.exit(130))
    ended = slimctl("submit", few_images)
    assert "4 of 4 jobs to do" in ended.err.splitlines()[0]
    assert "few.yaml:6: warning: job 'quality', data: " in ended.err.splitlines()[1]
    monkeypatch.setenv("SLIMCTL_QUIET", "1")
    assert slimctl("submit", few_images).err == ""


def test_a_value_is_changed_from_the_command_line(slimctl, pipeline_file):
    keys = {
        json.loads(slimctl("plan", pipeline_file, "--json", *change).out)["jobs"][0]["key"]
        for change in ([], ["--set", "jobs.data.max_images=9"], ["--set", "jobs.data.max_images=8"])
    }
    assert len(keys) == 3


def test_submitting_what_is_there_starts_nothing(slimctl, pipeline_file, tmp_path, finish):
    finish(pipeline_file, tmp_path / "store")
    ended = slimctl("submit", pipeline_file, "--json")
    assert ended.code == 0
    assert ended.err.startswith("nothing to do: the store has every result (run digits-")
    made = json.loads(ended.out)
    assert made["state"] == "done"
    assert made["jobs"]["data"]["state"] == "reused"
    assert made["jobs"]["data"]["artifact"]["count"] == 1
    assert slimctl("status").out.count("digits-") == 1


# How runs end


@pytest.mark.parametrize(
    ("failure", "code"),
    [("UserError", 2), ("DamagedArtifact", 3), ("JobFailed", 4), ("ValueError", 4)],
)
def test_a_failed_run_has_its_exit_code(slimctl, pipeline_file, ends, failure, code):
    ends("failed", failure=failure, message="it broke", fix="repair it")
    ended = slimctl("submit", pipeline_file, "--json")
    assert ended.code == code
    made = json.loads(ended.out)
    assert (made["state"], made["jobs"]["data"]["error"]) == ("failed", "it broke")
    assert ended.err.endswith("run run-1: job 'data' failed: it broke\n  fix: repair it\n")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ([], ["stopped", "finished jobs and checkpoints are kept", "slimctl resume run-1"]),
        (["--address", "auto"], ["goes on at auto", "slimctl logs run-1 -f"]),
    ],
)
def test_an_interrupted_run_says_how_to_go_on(slimctl, pipeline_file, monkeypatch, address, words):
    def submit(pipeline, *, address, detach, listener, on_plan, on_wait, on_warnings):
        on_plan(RunPlan(name="x", storage="/s", tracking=None, jobs=()), "run-1")
        raise KeyboardInterrupt

    monkeypatch.setattr(submission, "submit", submit)
    ended = slimctl("submit", pipeline_file, *address)
    assert ended.code == 130
    assert ended.out == ""
    assert all(word in ended.err for word in ["interrupted: run run-1", *words])


def test_the_program_is_quiet_when_asked(slimctl, pipeline_file, ends, monkeypatch):
    monkeypatch.setenv("SLIMCTL_QUIET", "1")
    ends("cancelled")
    ended = slimctl("submit", pipeline_file)
    assert ended.code == 4
    assert ended.err.startswith("run run-1: was cancelled")


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGTERM, 143, "preempted: run run-1"),
        (signal.SIGUSR1, 138, "preempted: run run-1"),
        (signal.SIGHUP, 129, "interrupted: run run-1"),
    ],
)
def test_a_signal_ends_it_as_ctrl_c_does(slimctl, pipeline_file, monkeypatch, number, code, word):
    before = {one: signal.getsignal(one) for one in SIGNALS}

    def submit(pipeline, *, on_plan, **options):
        on_plan(RunPlan(name="x", storage="/s", tracking=None, jobs=()), "run-1")
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(submission, "submit", submit)
    signal.signal(number, signal.SIG_DFL)  # under nohup it is ignored, which stays so
    try:
        ended = slimctl("submit", pipeline_file)
        assert signal.getsignal(number) is signal.SIG_IGN, "the end is not interrupted"
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    assert ended.code == code
    assert ended.err.startswith(word)
    assert "slimctl resume run-1" in ended.err
