"""What MLflow is told of models: which one to take, and the trials of a sweep as runs of their own.

A registered model is named after the pipeline; a version of it is a pointer to an artifact of the
store, not a copy. `champion` and `smallest` are aliases of versions.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.base.artifacts import QualityReport, SweepReport, Trial
from orchestrator.sweeps import iteration_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACT_TAG = "slimctl.artifact"
TRIAL_STATUS = {"done": "FINISHED", "failed": "FAILED", "filtered": "KILLED"}


def aliases(reports: Mapping[str, QualityReport]) -> dict[str, str]:
    """Alias -> job that measured the model.

    `champion` has the lowest FID of those that take the fewest evaluations, `smallest` the fewest
    weights of those that no other beats in both FID and weights, at that number of evaluations.
    """
    if not reports:
        return {}
    fewest = min(report.nfe for report in reports.values())
    fast = {name: report for name, report in reports.items() if report.nfe == fewest}
    front = {
        name: one
        for name, one in fast.items()
        if not any(
            other.fid <= one.fid
            and other.parameters <= one.parameters
            and (other.fid, other.parameters) != (one.fid, one.parameters)
            for other in fast.values()
        )
    }
    return {
        "champion": min(fast, key=lambda name: fast[name].fid),
        "smallest": min(front, key=lambda name: (front[name].parameters, front[name].fid)),
    }


def register(
    client: "MlflowClient",
    name: str,
    storage: str,
    reports: Mapping[str, QualityReport],
    run: str,
) -> None:
    """Points the aliases of a pipeline's model at artifacts; an artifact is registered once.

    Args:
        client: of the tracking server.
        name: of the pipeline.
        storage: URI of the store.
        reports: job -> what was measured.
        run: MLflow run that the versions belong to.

    Raises:
        MlflowException: the server keeps no models.
    """
    chosen = aliases(reports)
    if not chosen:
        return
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, tags={"slimctl.pipeline": name})
    known = {
        version.tags.get(ARTIFACT_TAG, ""): version.version
        for version in client.search_model_versions(f"name = '{name}'")
    }
    for alias, job in chosen.items():
        report = reports[job]
        if report.model not in known:
            root = storage if "://" in storage else f"file://{storage}"
            tags = {
                ARTIFACT_TAG: report.model,
                "slimctl.measured_by": job,
                "fid": f"{report.fid:.6g}",
                "parameters": str(report.parameters),
                "nfe": f"{report.nfe:g}",
            }
            made = client.create_model_version(
                name, f"{root}/artifacts/{report.model}", run, tags=tags
            )
            known[report.model] = made.version
        client.set_registered_model_alias(name, alias, known[report.model])


def log_trials(
    client: "MlflowClient",
    experiment: str,
    sweep: str,
    report: SweepReport,
    tags: Mapping[str, str],
    known: Mapping[str, str],
) -> dict[str, str]:
    """Writes each trial of a sweep as a run; returns their MLflow runs by name.

    Args:
        client: of the tracking server.
        experiment: MLflow experiment.
        sweep: name of the job that swept.
        report: what it found.
        tags: of every such run: its parent, the run of the program.
        known: runs that are there already, by name.
    """
    made: dict[str, str] = {}
    for number, trial in enumerate(report.trials):
        name = f"{sweep}.{iteration_of(trial)}"
        if name in known:
            continue
        chosen = {"slimctl.chosen": "true"} if number == report.chosen else {}
        why = {"slimctl.error": trial.why[:5000]} if trial.why else {}
        own = {**tags, **chosen, **why, "slimctl.job": name, "slimctl.kind": "trial"}
        created = client.create_run(experiment, tags=own, run_name=name)
        made[name] = created.info.run_id
        _log_trial(client, created.info.run_id, trial)
    return made


def _log_trial(client: "MlflowClient", run: str, trial: Trial) -> None:
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    params: list[Any] = [Param(name, str(value)[:500]) for name, value in trial.values.items()]
    short = [name.rpartition(".")[2] for name in trial.metrics]
    metrics = [
        Metric(last if short.count(last) == 1 else name, value, now, 0)
        for (name, value), last in zip(trial.metrics.items(), short, strict=True)
    ]
    client.log_batch(run, metrics=metrics, params=params)
    client.set_terminated(run, TRIAL_STATUS[trial.state])
