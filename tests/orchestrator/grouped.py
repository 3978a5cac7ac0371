"""Job kinds and a pipeline file for the tests of groups."""

from collections.abc import Mapping

from slimctl.jobs.base.artifacts import Dataset, Flow, Generator
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import JobSpec, SeededJobSpec
from slimctl.models.spec import ImageShape
from slimctl.orchestrator.pipeline.pipeline import Pipeline, parse_pipeline

IMAGE = ImageShape(channels=1, size=8)


class Source(JobSpec):
    """Something with parts, if it is said how many."""

    count: int | None = None

    def run(self, context: JobContext) -> Dataset:
        return Dataset(image=IMAGE, count=self.count or 1, flip_valid=False)

    def parts(self) -> int | None:
        return self.count


class Make(SeededJobSpec):
    """Makes a flow, of data or of another flow."""

    data: Ref[Dataset]
    start: Ref[Flow] | None = None
    steps: int = 1
    options: dict[str, int] = {}  # noqa: RUF012  (pydantic copies defaults)

    def run(self, context: JobContext) -> Flow:
        before = context.input(self.start).parameters if self.start else 0
        return Flow(source="network", image=IMAGE, parameters=before + self.steps)

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        if self.steps == 13:
            raise FieldError("steps", "13 brings bad luck", "take 12")
        return Facts(count=self.steps)


class Gather(JobSpec):
    """Takes any number of flows."""

    flows: tuple[Ref[Flow], ...]
    label: str = ""

    def run(self, context: JobContext) -> Generator:
        total = sum(context.input(flow).parameters for flow in self.flows)
        return Generator(image=IMAGE, network={}, parameters=total)

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        for place, facts in inputs.items():
            if facts.count == 99:
                raise FieldError(place, "it has 99 steps")
        return Facts()


KINDS = {"source": Source, "make": Make, "gather": Gather}
TEXT = """\
name: x
jobs:
  data: {kind: source}
  group:
    for_each: {steps: [5, 6], seed: [0, 1, 2]}
    jobs:
      first: {kind: make, data: data, steps: "${steps}", seed: "${seed}"}
      second:
        kind: make
        data: data
        start: first
  all: {kind: gather, flows: group.second}
"""


def load(text: str = TEXT, *overrides: str) -> Pipeline:
    return parse_pipeline(text, "f.yaml", overrides).pipeline


def changed(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new)
