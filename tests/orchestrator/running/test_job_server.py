import importlib.metadata
import re
from pathlib import Path

import pytest

from slimctl.jobs.base.errors import DamagedArtifact, JobFailed, UserError
from slimctl.orchestrator.running import job_server
from slimctl.orchestrator.running.job_server import is_job_server, requirements, run_on_job_server


class FakeClient:
    """A job server whose program says three things and ends."""

    def __init__(self, ending: str = "SUCCEEDED", code: int = 0) -> None:
        self.submitted: dict = {}
        self.said = ["one\n", "two\n", "three\n"]
        self.polls = 0
        self.ending, self.driver_exit_code = ending, code
        self.files: dict[str, str] = {}
        self.refusals: list[str] = []

    def submit_job(self, **options):
        if self.refusals:
            raise RuntimeError(self.refusals.pop())
        self.submitted = options
        folder = Path(options["runtime_env"]["working_dir"])
        self.files = {
            path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.*")
            if path.is_file()
        }  # fmt: skip
        return options["submission_id"]

    def get_job_status(self, submission):
        self.polls += 1
        state = self.ending if self.polls >= 3 else "RUNNING"
        return type("Status", (), {"value": state})

    def get_job_logs(self, submission):
        return "".join(self.said[: self.polls])

    def get_job_info(self, submission):
        return self


@pytest.fixture
def client(monkeypatch):
    made = FakeClient()
    monkeypatch.setattr(job_server, "_connect", lambda address: made)
    monkeypatch.setattr(job_server, "POLL_S", 0.0)
    return made


def hand_over(detach: bool = False, **files: str) -> str:
    heard: list[str] = []
    words = ["submit", "pipe line.yaml"]
    run_on_job_server("http://head:8265", "digits", words, files, detach=detach, tell=heard.append)
    return "".join(heard)


def test_what_it_says_is_passed_on_once(client):
    assert hand_over() == "one\ntwo\nthree\n"


def test_an_agent_that_is_not_up_yet_is_waited_for(client):
    client.refusals = ["Request failed with status code 500: No available agent to submit job"] * 2
    assert hand_over() == "one\ntwo\nthree\n"


def test_a_server_that_takes_no_job_is_the_users_to_mend(client):
    client.refusals = ["Request failed with status code 400: no\nmore"]
    with pytest.raises(UserError, match="took no job: Request failed with status code 400: no\n"):
        hand_over()


def test_the_code_and_the_pipeline_travel(client):
    hand_over(**{"pipeline.yaml": "name: digits\n"})
    assert client.files["pipeline.yaml"] == "name: digits\n"
    code = {"orchestrator/cli/main.py", "jobs/base/spec.py", "models/ema.py", "__main__.py"}
    assert {f"slimctl/{name}" for name in code} <= set(client.files)
    assert not any("__pycache__" in name for name in client.files)
    assert client.submitted["entrypoint"] == (
        "python -m slimctl submit 'pipe line.yaml' --address auto"
    )
    assert client.submitted["submission_id"].startswith("slimctl-digits-")


def test_requirements_are_pinned_to_what_runs_here(client):
    hand_over()
    assert client.submitted["runtime_env"]["pip"] == requirements()
    assert f"pydantic=={importlib.metadata.version('pydantic')}" in requirements()
    assert all(re.fullmatch(r"[\w.,\[\]-]+==[\w.]+", line) for line in requirements())
    assert not any("pytest" in line for line in requirements())


def test_a_detached_run_is_not_followed(client):
    assert hand_over(detach=True) == ""
    assert client.polls == 0


@pytest.mark.parametrize(
    ("code", "kind"), [(1, JobFailed), (2, UserError), (3, DamagedArtifact), (4, JobFailed)]
)
def test_its_exit_code_is_ours(client, code, kind):
    client.ending, client.driver_exit_code = "FAILED", code
    with pytest.raises(kind, match=f"ended as failed with exit code {code}"):
        hand_over()


def test_no_secret_of_ours_travels(client, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    hand_over()
    assert "canary" not in str(client.submitted) + str(client.files)


def test_no_server_at_the_address_is_the_users_error():
    with pytest.raises(UserError, match="no job server of Ray answers") as caught:
        run_on_job_server(
            "http://127.0.0.1:1", "x", ["submit"], {}, detach=False, tell=lambda text: None
        )
    assert "RAY_AUTH_TOKEN" in caught.value.fix


@pytest.mark.parametrize(
    ("address", "is_one"),
    [("http://head:8265", True), ("https://x", True), ("auto", False), (None, False),
     ("10.0.0.1:6379", False)],
)  # fmt: skip
def test_which_addresses_are_job_servers(address, is_one):
    assert is_job_server(address) == is_one
