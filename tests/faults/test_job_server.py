"""A run that is handed to Ray's job server, as from a laptop."""

import socket

import pytest
from builders import strangers_folder
from here import SMALL, run_here
from ray_processes import cluster_of, ended, result_bytes, slimctl, until

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.runs.runs import read_status, run_ids

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(1200)]


@pytest.fixture
def server():
    """A cluster with a dashboard on loopback."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, agent = one.getsockname()[1], other.getsockname()[1]
    head = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
    # Another Ray on this machine may hold the agent's usual port, and without it no job is taken.
    with cluster_of(2, first=52, dashboard_agent_listen_port=agent, **head):
        yield f"http://127.0.0.1:{port}"


def test_a_laptop_hands_a_run_over_and_leaves(server, tmp_path):
    run_here(tmp_path / "calm")
    file = tmp_path / "small.yaml"
    file.write_text(SMALL)
    storage = tmp_path / "store"
    words = ["--storage", storage, "--address", server]
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    folder = strangers_folder(stranger, "torch", "mlflow")
    code, _, err = ended(slimctl("submit", file, *words, cwd=folder), 500)
    assert code == 0, err
    assert "student (anneal_reflow): done" in err
    assert result_bytes(storage) == result_bytes(tmp_path / "calm")
    for artifact in storage.glob("artifacts/anneal_reflow-*"):
        (artifact / "weights.safetensors").unlink()
    code, _, err = ended(slimctl("resume", *words, "--detach"), 200)
    assert code == 0, err
    blobs = Store(str(storage)).blobs
    until(lambda: read_status(blobs, run_ids(blobs)[-1]).state == "done")
    until(lambda: result_bytes(storage) == result_bytes(tmp_path / "calm"))
    bad = tmp_path / "bad.yaml"
    bad.write_text(SMALL.replace("source: digits", "source: ./nowhere"))
    assert ended(slimctl("submit", bad, *words), 200)[0] == 2
