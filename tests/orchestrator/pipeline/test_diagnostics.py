import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict

import pytest

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, SpecWarning
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import JobSpec
from slimctl.orchestrator.pipeline.diagnostics import (
    DottedPlaces,
    Mistake,
    PipelineProblems,
    Place,
    Problem,
    as_warning,
    dotted,
    listed,
    raise_problems,
    warnings,
)
from slimctl.orchestrator.pipeline.link import expectations
from slimctl.orchestrator.pipeline.pipeline import parse_pipeline, resolve
from slimctl.orchestrator.pipeline.source import parse_document
from slimctl.orchestrator.planning.graph import Graph

LATE = Problem("a.yaml", 31, 3, "job 'student' needs a PairSet as pairs", "use 'pairs'")
EARLY = Problem("a.yaml", 4, 9, "seed must be at least 0, not -1")
OVERRIDE = Problem("--set seed=-1", 0, 0, "seed must be at least 0, not -1")


def test_problems_are_printed_in_line_order_and_those_without_line_last():
    error = PipelineProblems(OVERRIDE, LATE, EARLY)
    assert str(error) == (
        "a.yaml:4: seed must be at least 0, not -1\n"
        "a.yaml:31: job 'student' needs a PairSet as pairs\n"
        "  fix: use 'pairs'\n"
        "--set seed=-1: seed must be at least 0, not -1"
    )
    assert error.problems == (EARLY, LATE, OVERRIDE)


def test_it_is_the_users_error_and_survives_pickling():
    error = PipelineProblems(LATE, EARLY)
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, UserError)
    assert again.exit_code == 2
    assert again.problems == error.problems
    assert str(again) == str(error)


def test_problems_serialise_for_machines():
    (problem,) = PipelineProblems(LATE).problems
    assert json.loads(json.dumps(asdict(problem))) == {
        "file": "a.yaml",
        "line": 31,
        "column": 3,
        "what": "job 'student' needs a PairSet as pairs",
        "fix": "use 'pairs'",
    }


def test_no_problems_raise_nothing_and_repeated_ones_are_reported_once():
    raise_problems([])
    with pytest.raises(PipelineProblems) as caught:
        raise_problems([LATE, LATE])
    assert caught.value.problems == (LATE,)


def test_a_mistake_finds_its_place():
    mistake = Mistake(("jobs", "student", "steps"), "what", "fix")
    assert mistake.at(DottedPlaces()) == Problem("jobs.student.steps", 0, 0, "what", "fix")
    assert Mistake((), "what").at(DottedPlaces()).where == "pipeline"


def test_places_never_make_two_things_differ():
    assert DottedPlaces() == parse_document("a: 1", "f.yaml")
    assert hash(DottedPlaces()) == hash(parse_document("a: 1", "f.yaml"))
    assert DottedPlaces() != Place("f")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "'a'"),
        (["a", "b"], "'a' or 'b'"),
        (["a", "b", "c"], "'a', 'b' or 'c'"),
        (["a", "b", "c", "d", "e", "f"], "'a', 'b', 'c', 'd' or 2 more"),
    ],
)
def test_listed(names: list[str], text: str):
    assert listed(names) == text


def test_dotted():
    assert dotted(("jobs", "a", "betas", 1)) == "jobs.a.betas.1"


TEXT = """\
name: x
jobs:
  first: {kind: thin, count: 3}
  plain: {kind: thin, count: 30}
  a: {kind: thin, source: first}
  b:
    kind: thin
    source: first
  group:
    for_each: {n: [1, 2, 30]}
    jobs:
      c: {kind: thin, source: first}
      d: {kind: thin, count: "${n}"}
      e: {kind: thin, source: d}
"""


class Thin(JobSpec):
    """A job that warnings sources of few things."""

    source: Ref[Flow] | None = None
    count: int = 100

    def run(self, context: JobContext) -> Flow:
        raise NotImplementedError

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        return Facts(count=self.count)

    def warnings(self, inputs: Mapping[str, Facts]) -> list[SpecWarning]:
        count = inputs["source"].count if self.source else None
        if count is None or count >= 10:
            return []
        return [SpecWarning("source", f"'{self.source.job}' has only {count}", "take more")]


@pytest.fixture
def said(install_kinds):
    """`said(*jobs)` are the warnings of those jobs, of all without a name."""
    install_kinds(thin=Thin)
    pipeline = resolve(parse_pipeline(TEXT, "f.yaml").pipeline)
    graph = Graph.of(pipeline)

    def tell(*jobs: str) -> list[str]:
        found = warnings(
            pipeline, graph, expectations(pipeline.specs, graph.edges, graph.order)[0], jobs or None
        )
        return [as_warning(one) for one in found]

    return tell


def test_a_doubt_of_several_jobs_is_reported_once_where_the_first_stands(said):
    fix = "\n  fix: take more"
    assert said() == [
        f"f.yaml:5: warning: jobs 'a', 'b' and 'group.c', source: 'first' has only 3{fix}",
        f"f.yaml:14: warning: job 'group.e', source: 'group.n=1.d' has only 1{fix}",
        f"f.yaml:14: warning: job 'group.e', source: 'group.n=2.d' has only 2{fix}",
    ]


def test_only_what_is_going_to_run_is_doubted(said):
    assert [one.splitlines()[0] for one in said("b", "plain")] == [
        "f.yaml:8: warning: job 'b', source: 'first' has only 3"
    ]


def test_a_job_has_no_doubts_of_its_own_accord():
    assert JobSpec.warnings(Thin(), {}) == []
