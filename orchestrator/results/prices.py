"""The price that results are counted at: that of the pipelines that they are from."""

from collections.abc import Iterable

from slimctl.jobs.base.errors import DamagedArtifact
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.pipeline.operations import Price
from slimctl.orchestrator.pipeline.pipeline import Pipeline
from slimctl.orchestrator.pipeline.source import parse_document
from slimctl.orchestrator.runs.runs import read_pipeline


def price_of(pipelines: Iterable[Pipeline], store: Store, runs: Iterable[str]) -> Price | None:
    """The price that all of them state; None where they state none, or different ones."""
    found = [pipeline.price for pipeline in pipelines]
    for run in dict.fromkeys(runs):
        try:
            text = read_pipeline(store.blobs, run)
        except DamagedArtifact:
            continue
        stated = parse_document(text, run).data.get("price")
        found.append(None if stated is None else Price.model_validate(stated))
    return found[0] if found and all(one == found[0] for one in found) else None
