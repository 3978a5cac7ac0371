"""The program `slimctl` in this process, and a storage with a run in it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import builders
import numpy as np
import pytest
from builders import RUN, dataset, quality

from slimctl.jobs.base.artifacts import Handle
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.cli.main import main
from slimctl.orchestrator.pipeline.pipeline import load_pipeline, resolve
from slimctl.orchestrator.planning.graph import identities
from slimctl.orchestrator.runs.events import EventLog
from slimctl.orchestrator.runs.runs import save_pipeline


@dataclass(frozen=True)
class Ended:
    """How the program ended."""

    code: int
    out: str
    err: str


Slimctl = Callable[..., Ended]


@pytest.fixture
def slimctl(monkeypatch, capsys, tmp_path) -> Slimctl:
    """`slimctl("show", run)` as on the command line; the default storage is `<tmp_path>/store`."""
    monkeypatch.setenv("SLIMCTL_STORAGE", str(tmp_path / "store"))

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["slimctl", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return run


def put(store: Store, artifact: str, handle: Handle) -> None:
    """Puts a result with one file into a store."""
    spec = {"source": "digits", "network": {"channels": 8}}
    builders.put(
        store, artifact, handle, {"data.safetensors": b"bytes"}, spec=spec, wall_s=1.5,
        inputs={"data": "load_dataset-d0"}, notes=("few images",), engine={"device": "cpu"},
    )  # fmt: skip


@pytest.fixture
def store(tmp_path) -> Store:
    """A storage with a run of which one job failed."""
    made = Store(str(tmp_path / "store"))
    data = dataset()
    put(made, "load_dataset-d0", data)
    put(made, "evaluate-q0", quality())
    save_pipeline(made.blobs, RUN, "name: digits\n")
    log = EventLog(made.blobs, RUN)
    kinds = {"data": "load_dataset-d0", "quality": "evaluate-q0", "late": "evaluate-q1"}
    jobs = {
        name: {"kind": artifact.split("-")[0], "key": artifact[-2:], "artifact": artifact}
        for name, artifact in kinds.items()
    }
    log.add("run_started", name="digits", jobs=jobs)
    log.add("job_reused", "data")
    log.add("job_started", "quality", attempt=1)
    log.add("progress", "quality", done=50, total=200, metrics={"loss": 0.25})
    log.add("log", "quality", message="half way")
    log.add("warning", "quality", message="grey images")
    log.add("job_done", "quality", wall_s=1.0, device_s=1.0)
    log.add("job_failed", "late", failure="UserError", what="it broke", fix="repair it")
    log.add("run_ended", state="failed")
    log.flush()
    return made


@pytest.fixture
def pipeline_file(tmp_path) -> Path:
    """A pipeline without mistakes."""
    file = tmp_path / "digits.yaml"
    file.write_text("name: digits\njobs:\n  data: {kind: load_dataset, source: digits}\n")
    return file


@pytest.fixture
def no_ray(monkeypatch) -> None:
    """Whoever starts Ray fails."""

    def connect(address):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(
        import_module("slimctl.orchestrator.running.submission"), "connect", connect
    )


@pytest.fixture
def few_images(tmp_path) -> Path:
    """A pipeline that measures against 20 images, which only reading the file tells."""
    images = np.zeros((20, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "few.npz", images=images, labels=np.arange(20) % 2)
    file = tmp_path / "few.yaml"
    file.write_text(
        "name: few\njobs:\n"
        f"  data: {{kind: load_dataset, source: {tmp_path}/few.npz, size: 8, channels: 1, "
        "classes: 2}\n  features: {kind: train_features, data: data}\n"
        "  flow: {kind: analytic_flow, data: data}\n  quality: {kind: evaluate, model: flow, "
        "data: data, features: features, samples: 10000, solver: {kind: euler, steps: 2}}\n"
    )
    return file


@pytest.fixture
def finish() -> Callable[[Path, Path], None]:
    """`finish(file, storage)` puts the result of a pipeline's one job into a storage."""

    def put_there(file: Path, storage: Path) -> None:
        pipeline = resolve(load_pipeline(file, (), str(storage)).pipeline)
        data = dataset(count=1)
        put(Store(str(storage)), identities(pipeline)["data"].id, data)

    return put_there
