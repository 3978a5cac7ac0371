import random
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import pytest
from growth import growth
from hypothesis import given, settings
from hypothesis import strategies as st

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.keys import artifact_id, job_key
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import BY_CONTENT, GROWS, SPEED_ONLY, JobSpec
from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems
from slimctl.orchestrator.pipeline.link import (
    cycles,
    expectations,
    reachable,
    topological_order,
    users_in,
)
from slimctl.orchestrator.pipeline.pipeline import Pipeline, parse_pipeline
from slimctl.orchestrator.planning.graph import Graph, identities, preflight


class Piece(JobSpec):
    """A job that does nothing, with every sort of field."""

    file: Annotated[str, BY_CONTENT] = ""
    left: Ref[Flow] | None = None
    right: Ref[Flow] | None = None
    size: int = 1
    workers: Annotated[int, SPEED_ONLY] = 1
    count: Annotated[int, GROWS] = 5

    def run(self, context: JobContext) -> Flow:
        raise NotImplementedError

    def fingerprint(self) -> dict[str, str]:
        if self.file == "missing":
            raise UserError("missing", "there is no such file", "check the path")
        if self.file:
            return {"file": Path(self.file).read_text()}
        return {}

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        total = self.size + sum(facts.count or 0 for facts in inputs.values())
        if total > 10**6:
            raise FieldError("size", f"size {total} is too much", "make it smaller")
        return Facts(count=total)

    def preflight(self) -> Facts | None:
        if self.file == "torn":
            raise UserError("", "its images are torn", "repair them")
        if self.size == 13:
            raise FieldError("size", "13 brings bad luck")
        return Facts(count=10**6) if self.file == "heavy" else None


@pytest.fixture(autouse=True)
def piece(install_kinds) -> None:
    install_kinds(piece=Piece)


def pipeline_of(**jobs: Mapping[str, Any]) -> Pipeline:
    return Pipeline(name="x", jobs={name: {"kind": "piece", **job} for name, job in jobs.items()})


DIAMOND = {
    "end": {"left": "a", "right": "b"},
    "b": {"left": "start"},
    "a": {"left": "start", "right": "start"},
    "start": {},
    "alone": {},
}


def test_a_diamond():
    graph = Graph.of(pipeline_of(**DIAMOND))
    assert graph.edges["a"] == [("left", "start"), ("right", "start")]
    assert graph.inputs("a") == ("start",)
    assert graph.inputs("end") == ("a", "b")
    assert graph.order == ("start", "b", "a", "end", "alone")
    assert graph.users["start"] == ["b", "a"]


def test_jobs_that_are_in_order_stay_as_in_the_file():
    jobs = {name: {"left": "z"} if name != "z" else {} for name in "zyxwv"}
    assert Graph.of(pipeline_of(**jobs)).order == ("z", "y", "x", "w", "v")


edges_like = st.integers(1, 12).flatmap(
    lambda count: st.fixed_dictionaries(
        {
            str(number): st.lists(
                st.tuples(st.just("field"), st.integers(0, count - 1).map(str)), max_size=3
            )
            for number in range(count)
        }
    )
)


@settings(deadline=None)
@given(edges=edges_like)
def test_order_and_cycles_of_any_graph(edges: dict[str, list[tuple[str, str]]]):
    users = users_in(edges)
    in_circle = {name for name in edges if name in reachable(name, users)}
    blocked = in_circle.union(*(reachable(name, users) for name in in_circle))
    order = list(topological_order(edges))
    assert set(order) == set(edges) - blocked
    for number, name in enumerate(order):
        assert {source for _, source in edges[name]} <= set(order[:number])
    found = list(cycles(edges))
    assert bool(found) == bool(in_circle)
    for circle in found:
        assert circle[0] == circle[-1]
        assert len(set(circle)) == len(circle) - 1
        for name, source in pairwise(circle):
            assert source in {source for _, source in edges[name]}
    broken = {(name, source) for circle in found for name, source in [circle[-2:]]}
    rest = {
        name: [link for link in links if (name, link[1]) not in broken]
        for name, links in edges.items()
    }
    assert len(list(topological_order(rest))) == len(edges)


def test_addresses_follow_what_matters(tmp_path: Path):
    path = tmp_path / "x.txt"
    path.write_text("one")

    def ids(**changes: Any) -> dict[str, str]:
        pipeline = pipeline_of(base={"file": str(path), **changes}, user={"left": "base"}, other={})
        return {name: found.id for name, found in identities(pipeline).items()}

    first = ids()
    assert ids(workers=9) == first
    assert ids(size=2)["base"] != first["base"]
    assert ids(size=2)["user"] != first["user"]
    assert ids(size=2)["other"] == first["other"]
    grown = ids(count=6)
    assert grown["base"] == first["base"].removesuffix("-5") + "-6"
    assert grown["user"] != first["user"]
    path.write_text("two")
    assert ids()["user"] != first["user"]


def test_an_address_is_that_of_the_jobs_own_key():
    pipeline = pipeline_of(start={}, end={"left": "start"})
    found = identities(pipeline, Graph.of(pipeline))
    start, end = pipeline.jobs["start"], pipeline.jobs["end"]
    assert found["start"].key == job_key(start, {})
    assert found["end"].key == job_key(end, {"start": found["start"].id})
    assert found["end"].id == artifact_id(end, found["end"].key)
    assert found["end"].fingerprint == {}


TEXT = """\
name: x
jobs:
  a: {kind: piece}
  b:
    kind: piece
    left: a
    file: missing
  c: {kind: piece, left: b}
  d: {kind: piece, file: nowhere.txt}
"""


def test_missing_files_are_found_at_the_field_that_names_them():
    pipeline = parse_pipeline(TEXT, "f.yaml").pipeline
    with pytest.raises(PipelineProblems) as caught:
        identities(pipeline)
    assert str(caught.value) == (
        "f.yaml:7: job 'b': missing: there is no such file\n"
        "  fix: check the path\n"
        "f.yaml:9: job 'd': nowhere.txt cannot be read: No such file or directory\n"
        "  fix: check that the file is there and may be read"
    )


def test_what_is_known_flows_along_the_edges():
    pipeline = pipeline_of(**DIAMOND)
    graph = Graph.of(pipeline)
    facts, _ = expectations(pipeline.specs, graph.edges, graph.order)
    assert {name: known.count for name, known in facts.items()} == {
        "start": 1,
        "b": 2,
        "a": 3,
        "end": 6,
        "alone": 1,
    }


def test_what_contradicts_an_input_is_reported_once_and_not_for_those_behind_it():
    text = "name: x\njobs:\n  a: {kind: piece, size: 999999}\n"
    text += "  b:\n    kind: piece\n    left: a\n    size: 2\n  c: {kind: piece, left: b}\n"
    with pytest.raises(PipelineProblems) as caught:
        parse_pipeline(text, "f.yaml")
    assert str(caught.value) == (
        "f.yaml:7: job 'b': size 1000001 is too much\n  fix: make it smaller"
    )


def test_preflight_reads_what_is_asked_and_tells_all():
    text = "name: x\njobs:\n  a: {kind: piece, file: torn}\n  b: {kind: piece, size: 13}\n"
    pipeline = parse_pipeline(text, "f.yaml").pipeline
    with pytest.raises(PipelineProblems) as caught:
        preflight(pipeline, Graph.of(pipeline))
    assert str(caught.value) == (
        "f.yaml:3: job 'a': its images are torn\n  fix: repair them\n"
        "f.yaml:4: job 'b', size: 13 brings bad luck"
    )
    preflight(pipeline, Graph.of(pipeline), [])
    with pytest.raises(PipelineProblems, match="torn"):
        preflight(pipeline, Graph.of(pipeline), ["a"])
    sound = pipeline_of(a={})
    preflight(sound, Graph.of(sound))


def test_what_preflight_reads_is_held_against_the_jobs_that_need_it():
    text = "name: x\njobs:\n  a: {kind: piece, file: heavy, size: 1}\n  b: {kind: piece, left: a}\n"
    pipeline = parse_pipeline(text, "f.yaml").pipeline
    with pytest.raises(PipelineProblems, match=r"f\.yaml:4: job 'b'.* is too much"):
        preflight(pipeline, Graph.of(pipeline))


@pytest.mark.parametrize("shape", ["chain", "fan", "random"])
def test_ten_thousand_jobs_are_planned_in_proportion(shape: str):
    draw = random.Random(0)
    before = {
        "chain": lambda number: number - 1,
        "fan": lambda number: 0,
        "random": lambda number: draw.randrange(number),
    }[shape]
    jobs = [
        (f"job{number}", Piece(size=1, left=Ref(f"job{before(number)}") if number else None))
        for number in range(10_000)
    ]

    def plan(count: int) -> None:
        pipeline = Pipeline(name="x", jobs=dict(reversed(jobs[:count])))
        assert len(identities(pipeline, Graph.of(pipeline))) == count

    assert growth(plan, 1000, 10_000) < 3
