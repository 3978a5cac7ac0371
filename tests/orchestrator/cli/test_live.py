import io
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from slimctl.orchestrator.cli import live
from slimctl.orchestrator.cli.live import LiveView, PlainView, clock, describe, numbers, open_view
from slimctl.orchestrator.planning.plan import PlannedJob, RunPlan
from slimctl.orchestrator.runs.events import Event
from slimctl.orchestrator.runs.status import fold

Told = tuple[str, str, dict[str, Any]]
JOBS = {"data": {"kind": "load_dataset", "key": "k", "artifact": "load_dataset-k"}}
STARTED = ("run_started", "", {"name": "digits", "jobs": JOBS})
BEGUN = ("job_started", "data", {"attempt": 1})


def events(*said: Told, every_s: float = 1.0) -> list[Event]:
    return [
        Event(number=at, time=100.0 + every_s * at, name=name, job=job, details=details)
        for at, (name, job, details) in enumerate(said)
    ]


def progress(done: int, **metrics: float) -> Told:
    return ("progress", "data", {"done": done, "total": 100, "metrics": metrics})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (187, "3m07s"), (3600, "1h00m"), (7500, "2h05m")],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_the_loss_is_the_number_worth_a_glance():
    assert numbers({"grad": 1.0, "loss": 0.12344}) == "loss 0.1234"
    assert numbers({"a": 1.0, "b": 2e-9}) == "a 1  b 2e-09"
    assert numbers({}) == ""


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (BEGUN, "data (load_dataset): started"),
        (("job_done", "data", {}), "data (load_dataset): done in 0s"),
        (("job_reused", "data", {}), "data (load_dataset): reused"),
        (("job_blocked", "data", {"what": "needs 'a', which failed"}),
         "data (load_dataset): blocked, needs 'a', which failed"),
        (("job_cancelled", "data", {}), "data (load_dataset): cancelled"),
        (("job_failed", "data", {"what": "it broke", "trace": "Trace\n  line"}),
         "data (load_dataset): FAILED: it broke\nTrace\n  line"),
        (("job_failed", "data", {"what": "it broke"}), "data (load_dataset): FAILED: it broke"),
        (("retry", "data", {"what": "lost"}), "data (load_dataset): trying again: lost"),
        (("warning", "data", {"message": "grey"}), "data (load_dataset): warning: grey"),
        (("warning", "", {"message": "no server"}), "warning: no server"),
        (("log", "data", {"message": "half"}), "data (load_dataset): half"),
        (progress(1_0, loss=0.5), "data (load_dataset): 10/100  loss 0.5"),
        (("run_ended", "", {"state": "done"}), "run run-1: done"),
        (("unheard_of", "data", {}), ""),
        (STARTED, ""),
    ],
)  # fmt: skip
def test_each_event_is_a_line(said, line):
    both = events(STARTED, said)
    assert describe(both[1], fold("run-1", both)) == line


def plan(*actions: str) -> RunPlan:
    jobs = tuple(
        PlannedJob(
            name=str(at), kind="x", fields={}, key="k", artifact="a", inputs={}, fingerprint={},
            action=action, reason="",
        )
        for at, action in enumerate(actions)
    )  # fmt: skip
    return RunPlan(name="digits", storage="/store", tracking=None, jobs=jobs)


def test_a_pipe_gets_a_line_per_event_and_progress_now_and_then(capsys):
    said = [STARTED, BEGUN, *(progress(done) for done in range(25)), ("job_done", "data", {})]
    with open_view() as view:
        assert isinstance(view, PlainView)
        view.plan(plan("run", "reuse"), "run-1")
        for event in events(*said):
            view.event(event)
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[0] == "run run-1: 1 of 2 jobs to do, store /store"
    assert lines[1] == "data (load_dataset): started"
    assert [line.split()[2] for line in lines[2:-1]] == ["0/100", "10/100", "20/100"]
    assert lines[2].count("left") == 0
    assert lines[3].endswith("left")
    assert lines[-1] == "data (load_dataset): done in 26s"


def test_a_quiet_view_shows_nothing(capsys):
    with open_view(quiet=True) as view:
        view.plan(plan("run"), "run-1")
        for event in events(STARTED, BEGUN):
            view.event(event)
    assert view.run == "run-1"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("message", ["it broke", "no [/tmp/x] here", "[bold]x", ":smile: [red]"])
def test_a_terminal_gets_a_table_whatever_jobs_say(message, monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **options: Console(
        **{**options, "stderr": False, "file": text, "force_terminal": True, "width": 120}
    ))  # fmt: skip
    monkeypatch.setattr(live.sys, "stderr", type("Terminal", (), {"isatty": lambda self: True})())
    failed = ("job_failed", "data", {"what": message})
    with open_view() as view:
        assert isinstance(view, LiveView)
        for event in events(STARTED, BEGUN, progress(10, loss=1.0), progress(30, loss=0.5), failed):
            view.event(event)
            view._live.refresh()
    shown = text.getvalue()
    assert f"data (load_dataset): FAILED: {message}" in shown
    assert "30/100" in shown
    assert "20/s" in shown
    assert "loss 0.5" in shown
    assert "✗" in shown


def drawn(jobs: dict[str, str], said: list[Told], width: int, height: int) -> list[str]:
    """The lines that a terminal of that size shows; jobs are given as name -> kind."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height)
    view = LiveView(console)
    made = {name: {"kind": kind, "key": "k", "artifact": name} for name, kind in jobs.items()}
    view.status = fold("run", events(("run_started", "", {"name": "x", "jobs": made}), *said))
    with console.capture() as capture:
        console.print(view._render())
    return Text.from_ansi(capture.get()).plain.splitlines()


def test_a_narrow_terminal_gives_every_job_one_line(monkeypatch):
    monkeypatch.setattr(live.time, "time", lambda: 230.0)
    jobs = {"a_teacher_of_size_32": "train_flow", "one_step": "distill"}
    numbers = {"done": 12_350, "total": 100_000, "metrics": {"loss": 0.123456}}
    said = [("job_started", name, {"attempt": 1}) for name in jobs]
    said += [("progress", name, numbers | {"done": done}) for done in (50, 12_350) for name in jobs]
    for width in (60, 80, 120):
        lines = drawn(jobs, said, width, 24)
        assert len(lines) == 2, width
        assert all(len(line.rstrip()) <= width for line in lines)
    assert "distill" in lines[1]
    assert "12,350/100,000" in drawn(jobs, said, 80, 24)[1]


def test_where_the_lines_are_few_what_runs_and_fails_is_kept():
    jobs = {f"job-{number:02d}": "distill" for number in range(30)}
    said = [("job_reused", f"job-{number:02d}", {}) for number in range(20)]
    said += [("job_started", "job-25", {"attempt": 1}), ("job_failed", "job-03", {"what": "no"})]
    lines = drawn(jobs, said, 80, 10)
    assert len(lines) == 8
    assert [line.split()[1] for line in lines[:2]] == ["job-03", "job-20"]
    assert any("▶ job-25" in " ".join(line.split()) for line in lines)
    assert lines[-1] == "and 4 waiting, 19 reused"


def test_the_jobs_of_a_large_group_share_a_line():
    names = [f"g.seed={seed}.student" for seed in range(6)]
    jobs = {name: {"kind": "anneal_reflow", "key": "k", "artifact": "a"} for name in names}
    out = io.StringIO()
    view = LiveView(Console(file=out, width=120))
    for event in events(
        ("run_started", "", {"name": "x", "jobs": jobs}),
        ("job_reused", names[0], {}),
        ("job_done", names[1], {}),
        ("job_started", names[2], {"attempt": 1}),
    ):
        view.event(event)
    view.close()
    (line,) = [line for line in out.getvalue().splitlines() if "g.student x 6" in line][-1:]
    assert line.startswith(" ▶")
    assert "2/6" in line
    assert "1 running, 3 waiting" in line


def test_jobs_that_share_a_line_say_how_far_they_are():
    names = [f"g.seed={seed}.student" for seed in range(5)]
    jobs = {name: {"kind": "anneal_reflow", "key": "k", "artifact": "a"} for name in names}
    out = io.StringIO()
    view = LiveView(Console(file=out, width=120))
    steps = [{"done": done, "total": 100, "metrics": {}} for done in (10, 20)]
    for event in events(
        ("run_started", "", {"name": "x", "jobs": jobs}),
        ("job_started", names[0], {"attempt": 1}),
        *(("progress", names[0], step) for step in steps),
    ):
        view.event(event)
    view.close()
    (line,) = [line for line in out.getvalue().splitlines() if "g.student x 5" in line][-1:]
    assert "0/5" in line
    assert "8s left of those under way" in line
