"""Notices: what is said, that each channel gets it, and that no secret and no wait comes of it."""

import json
import socketserver
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from supervised import BROKEN, World, job

from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator.pipeline.operations import Command, Mail, Notify, Price, Webhook
from slimctl.orchestrator.running import notifier
from slimctl.orchestrator.running.notices import Stall, notice_text
from slimctl.orchestrator.running.notifier import Notifier, send
from slimctl.orchestrator.runs.status import JobStatus, RunStatus

WEBHOOK = Webhook(kind="webhook", url_env="HOOK")
SECRET = "T0000-B0000-secret"


@contextmanager
def serving(server):
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hook(monkeypatch):
    """What a webhook on loopback was sent; `hook.code` is its answer."""

    class Hook(list):
        code = 200

    got = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(got.code)
            self.end_headers()

        def log_message(self, *_):
            """Says nothing."""

    with serving(HTTPServer(("127.0.0.1", 0), Handler)) as port:
        monkeypatch.setenv("HOOK", f"http://127.0.0.1:{port}/services/{SECRET}")
        yield got


def test_a_webhook_gets_json_with_text(hook):
    send(WEBHOOK, "started", "run", "it began")
    assert hook == [(f"/services/{SECRET}", "application/json", {"text": "it began"})]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (None, "the variable HOOK is not set"),
        (f"file:///{SECRET}", "neither http nor https"),
        (f"http://127.0.0.1:1/{SECRET}", "could not be sent"),
    ],
)
def test_a_webhook_that_cannot_be_reached_says_so_without_its_address(monkeypatch, value, what):
    monkeypatch.setenv("HOOK", value) if value else monkeypatch.delenv("HOOK", raising=False)
    with pytest.raises(UserError, match=what) as caught:
        send(WEBHOOK, "started", "run", "it began")
    assert SECRET not in str(caught.value)


def test_a_refusal_is_named_by_its_code(hook):
    hook.code = 403
    with pytest.raises(UserError, match="HTTP 403") as caught:
        send(WEBHOOK, "started", "run", "it began")
    assert SECRET not in str(caught.value)


def test_a_mail_goes_to_its_server():
    got = []

    class Smtp(socketserver.StreamRequestHandler):
        def handle(self):
            self.wfile.write(b"220 here\r\n")
            data = False
            for line in self.rfile:
                got.append(line.decode().rstrip())
                if data:
                    data = got[-1] != "."
                    answer = b"" if data else b"250 kept\r\n"
                elif got[-1].upper() == "DATA":
                    data, answer = True, b"354 go on\r\n"
                else:
                    answer = b"221 bye\r\n" if got[-1].upper() == "QUIT" else b"250 ok\r\n"
                self.wfile.write(answer)

    with serving(socketserver.TCPServer(("127.0.0.1", 0), Smtp)) as port:
        mail = Mail(kind="mail", to=["a@b.org"], sender="s@b.org", host="127.0.0.1", port=port)
        send(mail, "finished", "run", "run: done\nall jobs")
    assert "Subject: run: done" in got
    assert "To: a@b.org" in got
    assert "all jobs" in got


def test_a_command_gets_the_text_on_stdin(monkeypatch, tmp_path):
    code = (
        "import os, sys, pathlib; pathlib.Path(sys.argv[1]).write_text("
        "os.environ['SLIMCTL_HAPPENING'] + os.environ['SLIMCTL_RUN'] + sys.stdin.read())"
    )
    monkeypatch.setenv("TELL", f'{sys.executable} -c "{code}" {tmp_path}/out')
    send(Command(kind="command", command_env="TELL"), "stalled", "run-1", " text")
    assert (tmp_path / "out").read_text() == "stalledrun-1 text"
    monkeypatch.setenv("TELL", "/nowhere/program")
    with pytest.raises(UserError, match="could not be sent"):
        send(Command(kind="command", command_env="TELL"), "stalled", "run-1", "text")


def test_nobody_waits_for_a_channel_and_trouble_is_said_once(monkeypatch):
    release, warned = threading.Event(), []

    def hang(channel, happening, run, text):
        release.wait(10)
        raise UserError("webhook", "gone")

    monkeypatch.setattr(notifier, "send", hang)
    told = Notifier(Notify.model_validate([WEBHOOK.model_dump()]), warned.append)
    told.say("started", "run", "one")
    told.say("finished", "run", "two")
    assert warned == [], "it has not waited until the channel gave up"
    release.set()
    told.close()
    assert warned == ["notify.0 (webhook): gone"]


def test_a_run_tells_that_it_began_what_failed_and_how_it_ended(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(
        notifier, "send", lambda channel, happening, run, text: said.append((happening, text))
    )
    world = World(monkeypatch, str(tmp_path / "store"))
    world.operations = {"notify": Notify.model_validate([WEBHOOK.model_dump()])}
    world.script["b"] = [BROKEN]
    world.run(job("a"), job("b", "a"), job("c", "b"))
    assert [happening for happening, _ in said] == ["started", "failed", "finished"]
    assert "job 'b' failed: ValueError: 3" in said[1][1]
    assert "c  blocked" in said[2][1]
    assert ": failed, after" in said[2][1]


def test_a_channel_hears_what_it_asked_for(monkeypatch):
    said = []
    monkeypatch.setattr(notifier, "send", lambda *notice: said.append(notice[1]))
    told = Notifier(
        Notify.model_validate([{**WEBHOOK.model_dump(), "on": ["failed"]}]), said.append
    )
    for happening in ("started", "failed", "finished"):
        told.say(happening, "run", "text")
    told.close()
    assert said == ["failed"]


def test_a_notice_has_the_table_time_left_and_the_cost():
    status = RunStatus(run="digits-1", started=100.0)
    points = [(100.0, 0.0), (200.0, 1000.0)]
    status.jobs["student"] = JobStatus(
        kind="distill", key="k", artifact="a", state="running", started=100.0, done=1000,
        total=3000, points=points, gpus=2.0,
    )  # fmt: skip
    status.jobs["quality"] = JobStatus(kind="evaluate", key="k", artifact="b")
    text = notice_text("stalled", status, 200.0, what="why", price=Price(gpu_hour=36.0))
    head, why, *rest = text.splitlines()
    assert head == "digits-1: stalled, after 1m40s, 3m20s left for what runs, " + (
        "0.0556 GPU-hours, 2.00 USD"
    )
    assert why == "why"
    assert rest == [
        "```", "student  running, 1,000 of 3,000, 3m20s left", "quality  waiting", "```",
    ]  # fmt: skip


def test_a_run_without_progress_is_stalled_once_until_it_goes_on():
    stall, status = Stall(60.0), RunStatus(run="r", waiting="waiting for 8 GPUs")
    status.jobs["a"] = JobStatus(kind="k", key="k", artifact="a", state="running")
    assert stall.begins(status, 1000.0) == ""
    assert stall.begins(status, 1059.0) == ""
    assert stall.begins(status, 1060.0) == "no progress of any job for 1m00s: waiting for 8 GPUs"
    assert stall.begins(status, 1200.0) == ""
    status.jobs["a"].done = 5
    assert stall.begins(status, 1201.0) == ""
    assert stall.begins(status, 1261.0).startswith("no progress")
