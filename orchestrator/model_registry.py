"""What MLflow is told of models: which one to take.

A registered model is named after the pipeline; a version of it is a pointer to an artifact of the
store, not a copy. `champion` and `smallest` are aliases of versions.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from slimctl.jobs.base.artifacts import QualityReport
from slimctl.jobs.base.keys import canonical_json
from slimctl.orchestrator.comparison.protocol import fid_protocol

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACT_TAG = "slimctl.artifact"


class Measured(NamedTuple):
    """A measured model, of this run or registered earlier."""

    model: str
    """Artifact id."""
    by: str
    """Job that measured it."""
    fid: float
    parameters: int
    nfe: float
    protocol: str
    """What its FID compares with."""


def measured(reports: Mapping[str, QualityReport]) -> list[Measured]:
    """The models of a run, if all of their FIDs compare; else none."""
    found = [
        Measured(
            report.model, job, report.fid, report.parameters, report.nfe,
            canonical_json(dict(fid_protocol(report))),
        )
        for job, report in reports.items()
    ]  # fmt: skip
    return found if len({one.protocol for one in found}) == 1 else []


def aliases(models: Sequence[Measured]) -> dict[str, Measured]:
    """Alias -> model, of models whose FIDs compare.

    `champion` has the lowest FID of those that take the fewest evaluations, `smallest` the fewest
    weights of those that no other beats in both FID and weights, at that number of evaluations.
    """
    if not models:
        return {}
    fewest = min(one.nfe for one in models)
    fast = [one for one in models if one.nfe == fewest]
    front = [
        one
        for one in fast
        if not any(
            other.fid <= one.fid
            and other.parameters <= one.parameters
            and (other.fid, other.parameters) != (one.fid, one.parameters)
            for other in fast
        )
    ]
    return {
        "champion": min(fast, key=lambda one: one.fid),
        "smallest": min(front, key=lambda one: (one.parameters, one.fid)),
    }


def register(
    client: "MlflowClient",
    name: str,
    storage: str,
    reports: Mapping[str, QualityReport],
    run: str,
) -> None:
    """Points the aliases of a pipeline's model at artifacts; an artifact is registered once.

    Versions that are there already take part if their FIDs were taken in the same way, so a worse
    run moves no alias.

    Args:
        client: of the tracking server.
        name: of the pipeline.
        storage: URI of the store.
        reports: job -> what was measured.
        run: MLflow run that the versions belong to.

    Raises:
        MlflowException: the server keeps no models.
    """
    own = measured(reports)
    if not own:
        return
    known: dict[str, str] = {}
    earlier: list[Measured] = []
    if client.search_registered_models(f"name = '{name}'"):
        for version in client.search_model_versions(f"name = '{name}'"):
            known[version.tags.get(ARTIFACT_TAG, "")] = version.version
            earlier += _registered(version.tags)
    else:
        client.create_registered_model(name, tags={"slimctl.pipeline": name})
    comparable = [one for one in earlier if one.protocol == own[0].protocol]
    for alias, chosen in aliases([*comparable, *own]).items():
        if chosen.model not in known:
            tags = {
                ARTIFACT_TAG: chosen.model,
                "slimctl.measured_by": chosen.by,
                "slimctl.fid_protocol": chosen.protocol,
                "slimctl.storage": storage,
                "fid": repr(chosen.fid),
                "parameters": str(chosen.parameters),
                "nfe": repr(chosen.nfe),
            }
            source = _pointer(storage, chosen.model)
            made = client.create_model_version(name, source, run, tags=tags)
            known[chosen.model] = made.version
        client.set_registered_model_alias(name, alias, known[chosen.model])


def _pointer(storage: str, artifact: str) -> str:
    """Where a model is; servers refuse paths of machines, so a local store is named in a tag."""
    root = storage if "://" in storage else "slimctl://local"
    return f"{root}/artifacts/{artifact}"


def _registered(tags: Mapping[str, str]) -> list[Measured]:
    """What a version's tags tell; nothing if somebody else registered it."""
    try:
        return [
            Measured(
                tags[ARTIFACT_TAG], tags["slimctl.measured_by"], float(tags["fid"]),
                int(tags["parameters"]), float(tags["nfe"]), tags["slimctl.fid_protocol"],
            )
        ]  # fmt: skip
    except (KeyError, ValueError):
        return []
