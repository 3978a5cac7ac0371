"""The program `slimctl` in this process, and a storage with a run in it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from slimctl.jobs.base.artifacts import Dataset, Handle, QualityReport
from slimctl.jobs.storage.store import Store
from slimctl.models.spec import ImageShape
from slimctl.orchestrator.cli.main import main
from slimctl.orchestrator.events import EventLog
from slimctl.orchestrator.graph import identities
from slimctl.orchestrator.pipeline import load_pipeline, resolve
from slimctl.orchestrator.runs import save_pipeline

RUN = "digits-20260101-120000-aaaa"


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
        told = capsys.readouterr()
        return Ended(code, told.out, told.err)

    return run


def put(store: Store, artifact: str, handle: Handle, kind: str) -> None:
    """Puts a result with one file into a store."""
    folder = store.stage()
    (folder / "data.safetensors").write_bytes(b"bytes")
    store.commit(
        artifact,
        handle,
        folder,
        {
            "kind": kind, "version": 1, "spec": {"source": "digits", "network": {"channels": 8}},
            "inputs": {"data": "load_dataset-d0"}, "wall_s": 1.5, "device_s": 1,
            "notes": ("few images",), "engine": {"device": "cpu"},
        },
    )  # fmt: skip


def report(**changes: object) -> QualityReport:
    """What an evaluation measured."""
    fields = {
        "model": "m", "model_type": "Generator", "solver": "one step", "fid": 12.345,
        "fid_real": 1.0, "kid": 0.0123, "kid_low": 0.010, "kid_high": 0.016, "precision": 0.5,
        "recall": 0.25, "nfe": 1.0, "samples": 200, "features": "f", "reference": "d",
        "parameters": 1_234_567, "macs": 4_460_000, "latency_ms": 1.234, "latency_p90_ms": 2.0,
        "device": "cpu", "threads": 1, "straightness": None, "nearest_rms": 0.1,
        "nearest_rms_real": 0.2,
    }  # fmt: skip
    return QualityReport(**{**fields, **changes})


@pytest.fixture
def store(tmp_path) -> Store:
    """A storage with a run of which one job failed."""
    made = Store(str(tmp_path / "store"))
    data = Dataset(image=ImageShape(channels=1, size=8), count=5, flip_valid=False)
    put(made, "load_dataset-d0", data, "load_dataset")
    put(made, "evaluate-q0", report(), "evaluate")
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
    log.add("job_failed", "late", failure="UserError", what="it broke", fix="mend it")
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

    monkeypatch.setattr(import_module("slimctl.orchestrator.submission"), "connect", connect)


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
        data = Dataset(image=ImageShape(channels=1, size=8), count=1, flip_valid=False)
        put(Store(str(storage)), identities(pipeline)["data"].id, data, "load_dataset")

    return put_there
