"""Puts measured models into a store, without training any."""

from collections.abc import Mapping

from slimctl.jobs.base.artifacts import Flow, Handle, QualityReport
from slimctl.jobs.storage.store import Store
from slimctl.models.spec import ImageShape
from slimctl.orchestrator.events import EventLog

IMAGE = ImageShape(channels=1, size=8)
RUN = "digits-20260101-120000-aaaa"
REPORT = {
    "model_type": "Flow", "solver": "euler 2", "fid_real": 1.0, "kid": 0.5, "kid_low": 0.4,
    "kid_high": 0.6, "precision": 0.5, "recall": 0.25, "nfe": 2.0, "samples": 200,
    "features": "train_features-f0", "reference": "load_dataset-d0", "macs": 4_460_000,
    "latency_ms": 1.5, "latency_p90_ms": 2.0, "device": "cpu", "threads": 1, "straightness": 0.1,
    "nearest_rms": 0.1, "nearest_rms_real": 0.2,
}  # fmt: skip
FIDS = {8: (10.0, 11.0, 12.0), 16: (5.0, 5.5, 6.0)}
"""Width -> FID of each seed; the means are 11 and 5.5."""
HOUR = 3600.0


def put(
    store: Store,
    artifact: str,
    handle: Handle,
    spec: Mapping[str, object],
    inputs: Mapping[str, str],
    hours: float = 0.0,
    device: str = "cpu",
) -> str:
    """Puts a result into a store as a job would."""
    manifest = {
        "kind": artifact.partition("-")[0], "version": 1, "spec": dict(spec),
        "inputs": dict(inputs), "wall_s": 1, "device_s": hours * HOUR,
        "engine": {"device": device},
    }  # fmt: skip
    store.commit(artifact, handle, store.stage(), manifest)
    return artifact


def put_student(store: Store, name: str, device: str = "cpu", **spec: object) -> str:
    """A student of the pairs, trained in two hours."""
    network = {"kind": "song_unet", "channels": spec.pop("width", 8), "channel_multipliers": [1]}
    fields = {"pairs": "pairs", "network": network, "steps": 100, **spec}
    flow = Flow(source="network", image=IMAGE, parameters=1)
    inputs = {"pairs": "generate_pairs-p0-100"}
    return put(store, f"anneal_reflow-{name}", flow, fields, inputs, 2.0, device)


def put_report(store: Store, name: str, model: str, **changes: object) -> str:
    """What was measured of a model."""
    report = QualityReport(**{**REPORT, "model": model, "fid": 9.0, "parameters": 100, **changes})
    spec = {
        "model": "student", "data": "data", "features": "features", "samples": report.samples,
        "solver": {"kind": "euler", "steps": 2}, "seed": 0,
    }  # fmt: skip
    inputs = {"student": model, "data": report.reference, "features": report.features}
    return put(store, f"evaluate-{name}", report, spec, inputs)


def put_run(store: Store, run: str, jobs: Mapping[str, str], failed: Mapping[str, str]) -> None:
    """A run with finished jobs (name -> artifact), and jobs that failed (name -> why)."""
    log = EventLog(store.blobs, run)
    wanted = {**jobs, **{name: "evaluate-none" for name in failed}}
    fields = {
        name: {"kind": artifact.partition("-")[0], "key": "k", "artifact": artifact}
        for name, artifact in wanted.items()
    }
    log.add("run_started", name=run.partition("-")[0], jobs=fields)
    for name in jobs:
        log.add("job_reused", name)
    for name, why in failed.items():
        log.add("job_failed", name, failure="JobFailed", what=why)
    log.add("run_ended", state="failed" if failed else "done")
    log.flush()
