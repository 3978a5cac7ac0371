"""The graph of a checked pipeline: who needs whose result, in which order, under which address."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.base.keys import artifact_id, job_key
from slimctl.jobs.search.spec import SearchSpec
from slimctl.orchestrator.pipeline.diagnostics import Mistake
from slimctl.orchestrator.pipeline.link import (
    Edges,
    expectations,
    links_of,
    outside_mistake,
    read_outside,
    sources_of,
    topological_order,
    users_in,
)
from slimctl.orchestrator.pipeline.references import named_outside

if TYPE_CHECKING:
    from slimctl.orchestrator.pipeline.pipeline import Pipeline


@dataclass(frozen=True)
class ArtifactIdentity:
    """The address of a job's result."""

    key: str
    """sha256 of what the result depends on, shortened."""
    id: str
    """`<kind>-<key>`, with the count of a growing set."""
    fingerprint: Mapping[str, str] = field(default_factory=dict)
    """Content of outside files: name -> sha256."""


@dataclass(frozen=True)
class Graph:
    """The jobs of a pipeline and what they need of each other.

    Args:
        edges: job -> (field, job whose result the field takes).
        order: every job after its inputs, otherwise as in the file.
        users: job -> jobs that take its result, in file order.
    """

    edges: Edges
    order: tuple[str, ...]
    users: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, pipeline: "Pipeline") -> "Graph":
        """The graph of a checked pipeline."""
        edges = {name: links_of(spec) for name, spec in pipeline.specs.items()}
        for name, spec in pipeline.specs.items():
            if isinstance(spec, SearchSpec):
                named = named_outside(name, spec, pipeline.made).values()
                outside = (source for sources in named for source in sources)
                edges[name] += [(f"inputs.{at}", source) for at, source in enumerate(outside)]
        return cls(edges, tuple(topological_order(edges)), users_in(edges))

    def inputs(self, job: str) -> tuple[str, ...]:
        """Jobs whose results a job takes, each once, in the order of its fields."""
        return sources_of(self.edges, job)


def identities(pipeline: "Pipeline", graph: Graph | None = None) -> dict[str, ArtifactIdentity]:
    """The address of each job's result, in the graph's order; of no trials of searches.

    Raises:
        PipelineProblems: outside files are missing or cannot be read.
    """
    graph = graph or Graph.of(pipeline)
    found: dict[str, ArtifactIdentity] = {}
    mistakes: list[Mistake] = []
    for name in (one for one in graph.order if pipeline.made.owner(one) == one):
        spec, inputs = pipeline.specs[name], graph.inputs(name)
        try:
            fingerprint = spec.fingerprint()
        except (UserError, OSError) as error:
            mistakes.append(outside_mistake(name, spec, error))
            continue
        if all(source in found for source in inputs):
            ids = {source: found[source].id for source in inputs}
            key = job_key(spec, ids, fingerprint)
            found[name] = ArtifactIdentity(key, artifact_id(spec, key), fingerprint)
    pipeline.tell(mistakes)
    return found


def preflight(
    pipeline: "Pipeline", graph: Graph, only: Iterable[str] | None = None
) -> dict[str, Facts]:
    """Reads outside input of the jobs `only` (None = all), and checks all against what it holds.

    Returns:
        What is then known of each job's result.

    Raises:
        PipelineProblems: that input cannot be used, or not by the jobs that need it.
    """
    due = None if only is None else {*only}
    wanted = (one for one in pipeline.specs if due is None or pipeline.made.owner(one) in due)
    read, mistakes = read_outside({name: pipeline.specs[name] for name in wanted})
    facts, found_wrong = expectations(pipeline.specs, graph.edges, graph.order, read)
    pipeline.tell([*mistakes, *found_wrong])
    return facts
