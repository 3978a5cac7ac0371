"""The graph of a pipeline: who needs whose result, in which order, and under which address.

Nothing here recurses or searches a list inside a loop, so that ten thousand jobs are planned in
seconds.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.keys import artifact_id, job_key
from slimctl.jobs.base.refs import ref_types, refs_in
from slimctl.jobs.base.spec import JobSpec, output_type
from slimctl.orchestrator.messages import field_mistake
from slimctl.orchestrator.outside import outside_mistake, read_outside
from slimctl.orchestrator.problems import Mistake
from slimctl.orchestrator.stand_ins import holds_wrong

if TYPE_CHECKING:
    from slimctl.orchestrator.pipeline import Pipeline

Edges = Mapping[str, Sequence[tuple[str, str]]]
"""Job -> (field, job whose result the field takes), in the order of the fields."""


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
        return cls(edges, tuple(topological_order(edges)), users_in(edges))

    def inputs(self, job: str) -> tuple[str, ...]:
        """Jobs whose results a job takes, each once, in the order of its fields."""
        return sources_of(self.edges, job)

    def downstream(self, job: str) -> tuple[str, ...]:
        """Jobs that need a job's result, directly or through others, in `order`."""
        found = reachable(job, self.users)
        return tuple(name for name in self.order if name in found)

    def priorities(self) -> dict[str, int]:
        """Number of jobs on the longest path from each job to an end of the graph."""
        lengths: dict[str, int] = {}
        for name in reversed(self.order):
            lengths[name] = 1 + max((lengths[user] for user in self.users[name]), default=0)
        return lengths


@cache
def ref_fields(kind: type[JobSpec]) -> Mapping[str, tuple[type, ...]]:
    """Fields of a kind that can name another job -> handle types that they take."""
    annotated = {name: ref_types(info.annotation) for name, info in kind.model_fields.items()}
    return {name: types for name, types in annotated.items() if types}


def links_of(spec: JobSpec) -> list[tuple[str, str]]:
    """(field, job) for each reference of a spec; `students.0` in a field that names many."""
    fields = ref_fields(type(spec))
    return [
        (place, ref.job) for name in fields for place, ref in refs_in(name, getattr(spec, name))
    ]


def sources_of(edges: Edges, job: str) -> tuple[str, ...]:
    """Jobs whose results a job takes, each once, in the order of its fields."""
    return tuple(dict.fromkeys(source for _, source in edges[job]))


def users_in(edges: Edges) -> dict[str, list[str]]:
    """The same edges the other way round: job -> jobs that take its result."""
    users: dict[str, list[str]] = {name: [] for name in edges}
    for name in edges:
        for source in sources_of(edges, name):
            users[source].append(name)
    return users


def reachable(start: str, users: Mapping[str, Sequence[str]]) -> set[str]:
    """All jobs that depend on `start`, without itself unless it depends on itself."""
    found: set[str] = set()
    stack = [start]
    while stack:
        fresh = [name for name in users[stack.pop()] if name not in found]
        found.update(fresh)
        stack += fresh
    return found


def topological_order(edges: Edges) -> Iterator[str]:
    """Every job after its inputs, otherwise in the order given.

    Jobs on a cycle, and those that need one, are left out.
    """
    rank = {name: number for number, name in enumerate(edges)}
    names = list(edges)
    users = users_in(edges)
    waits = {name: len(sources_of(edges, name)) for name in edges}
    ready = [rank[name] for name in names if waits[name] == 0]  # ascending, so a heap already
    while ready:
        name = names[heapq.heappop(ready)]
        yield name
        for user in users[name]:
            waits[user] -= 1
            if waits[user] == 0:
                heapq.heappush(ready, rank[user])


def cycles(edges: Edges) -> Iterator[list[str]]:
    """Cycles as lists of jobs, each needing the next, the last being the first again.

    Breaking all of them leaves a graph without cycles.
    """
    done: set[str] = set()
    for start in edges:
        path = {} if start in done else {start: iter(sources_of(edges, start))}
        while path:
            last = next(reversed(path))
            source = next(path[last], None)
            if source is None:
                done.add(last)
                del path[last]
            elif source in path:
                names = list(path)
                yield [*names[names.index(source) :], source]
            elif source not in done:
                path[source] = iter(sources_of(edges, source))


def expectations(
    specs: Mapping[str, JobSpec],
    edges: Edges,
    order: Iterable[str],
    read: Mapping[str, Facts] | None = None,
    known: Mapping[str, Facts] | None = None,
    stand_ins: Mapping[str, JobSpec] | None = None,
) -> tuple[dict[str, Facts], list[Mistake]]:
    """What is known of each result before anything runs, and what cannot fit together.

    Args:
        specs: the jobs whose fields are right.
        edges: what they need; where they need what is no job, nothing is known of it.
        order: all jobs, inputs first.
        read: what reading outside input told of the results of some jobs.
        known: what is known of the results of all other jobs.
        stand_ins: jobs with wrong fields, as far as they are right.
    """
    stand_ins = stand_ins or {}
    facts = dict(known or {})
    mistakes: list[Mistake] = []
    for name in order:
        spec = specs.get(name) or stand_ins.get(name)
        if spec is None:
            continue
        inputs = {place: facts.get(source, Facts()) for place, source in edges[name]}
        sure = not stand_ins or (name in specs and not any(map(holds_wrong, inputs.values())))
        expected, errors = _expected(spec, inputs, sure=sure)
        mistakes += [field_mistake(name, error) for error in errors]
        made = output_type(type(spec)).__name__
        facts[name] = replace((read or {}).get(name, expected), made=made)
    return facts, mistakes


def _expected(
    spec: JobSpec, inputs: Mapping[str, Facts], *, sure: bool
) -> tuple[Facts, Sequence[FieldError]]:
    """What a job tells of its result, and what is wrong with it.

    Args:
        spec: the job.
        inputs: facts of its inputs.
        sure: whether no value in all that is wrong, which can lead anywhere.
    """
    try:
        return spec.expect(inputs), ()
    except FieldError as error:
        return error.facts, error.each
    except Exception:
        if sure:
            raise
        return Facts(), ()


def known_facts(pipeline: "Pipeline", graph: Graph) -> dict[str, Facts]:
    """What is known of each job's result before anything runs."""
    facts, mistakes = expectations(pipeline.specs, graph.edges, graph.order)
    pipeline.tell(mistakes)
    return facts


def identities(pipeline: "Pipeline", graph: Graph | None = None) -> dict[str, ArtifactIdentity]:
    """The address of each job's result, in the graph's order.

    Args:
        pipeline: with seeds and paths filled in (`resolve`).
        graph: of that pipeline; None = make it here.

    Raises:
        PipelineProblems: outside files are missing or cannot be read.
    """
    graph = graph or Graph.of(pipeline)
    found: dict[str, ArtifactIdentity] = {}
    mistakes: list[Mistake] = []
    for name in graph.order:
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
    """Reads outside input before anything starts, and checks the jobs against what it holds.

    Args:
        pipeline: with seeds and paths filled in (`resolve`).
        graph: of that pipeline.
        only: jobs that are going to run; None = all.

    Returns:
        What is then known of each job's result.

    Raises:
        PipelineProblems: that input cannot be used, or not by the jobs that need it.
    """
    wanted = pipeline.specs if only is None else only
    read, mistakes = read_outside({name: pipeline.specs[name] for name in wanted})
    facts, found_wrong = expectations(pipeline.specs, graph.edges, graph.order, read)
    pipeline.tell([*mistakes, *found_wrong])
    return facts
