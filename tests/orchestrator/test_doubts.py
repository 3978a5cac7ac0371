from collections.abc import Mapping

import pytest

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Doubt, Facts
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import JobSpec
from slimctl.orchestrator.graph import Graph
from slimctl.orchestrator.link import expectations
from slimctl.orchestrator.pipeline import parse_pipeline, resolve
from slimctl.orchestrator.problems import as_warning, doubts

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
    """A job that doubts sources of few things."""

    source: Ref[Flow] | None = None
    count: int = 100

    def run(self, context: JobContext) -> Flow:
        raise NotImplementedError

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        return Facts(count=self.count)

    def doubts(self, inputs: Mapping[str, Facts]) -> list[Doubt]:
        count = inputs["source"].count if self.source else None
        if count is None or count >= 10:
            return []
        return [Doubt("source", f"'{self.source.job}' has only {count}", "take more")]


@pytest.fixture
def said(install_kinds):
    """`said(*jobs)` are the warnings of those jobs, of all without a name."""
    install_kinds(thin=Thin)
    pipeline = resolve(parse_pipeline(TEXT, "f.yaml").pipeline)
    graph = Graph.of(pipeline)

    def tell(*jobs: str) -> list[str]:
        found = doubts(
            pipeline, graph, expectations(pipeline.specs, graph.edges, graph.order)[0], jobs or None
        )
        return [as_warning(one) for one in found]

    return tell


def test_a_doubt_of_several_jobs_is_told_once_where_the_first_stands(said):
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
    assert JobSpec.doubts(Thin(), {}) == []
