"""Puts measured models into a store, without training any."""

from collections.abc import Mapping

import builders
from builders import quality, trained_flow

from slimctl.jobs.base.artifacts import Handle
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.runs.events import EventLog

REPORT = {
    "model_type": "Flow", "solver": "euler 2", "kid": 0.5, "kid_low": 0.4, "kid_high": 0.6,
    "nfe": 2.0, "features": "train_features-f0", "reference": "load_dataset-d0", "latency_ms": 1.5,
    "straightness": 0.1,
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
    made = {"spec": dict(spec), "inputs": dict(inputs), "engine": {"device": device}}
    builders.put(store, artifact, handle, device_s=hours * HOUR, **made)
    return artifact


def put_student(store: Store, name: str, device: str = "cpu", **spec: object) -> str:
    """A student of the pairs, trained in two hours."""
    network = {"kind": "song_unet", "channels": spec.pop("width", 8), "channel_multipliers": [1]}
    fields = {"pairs": "pairs", "network": network, "steps": 100, **spec}
    inputs = {"pairs": "generate_pairs-p0-100"}
    return put(store, f"anneal_reflow-{name}", trained_flow(), fields, inputs, 2.0, device)


def put_report(store: Store, name: str, model: str, **changes: object) -> str:
    """What was measured of a model."""
    report = quality(**{**REPORT, "model": model, "fid": 9.0, "parameters": 100, **changes})
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
