"""Trains a one-step generator by consistency along a flow (easy consistency tuning)."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from slimctl.jobs.base.artifacts import Generator
from slimctl.jobs.base.cluster import Work
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, check_each
from slimctl.jobs.training.lines import LineTrainingSpec
from slimctl.models.flows.spec import HuberDistance, L2Distance, LogNormalTime, TimeDensity
from slimctl.models.networks.spec import NetworkSpec

STAGES = 8
"""Stages of a training where their length is not given: those of the paper on CIFAR-10."""


class Consistency(LineTrainingSpec):
    """A one-step generator that says the same image from every point of a line.

    A point is compared with one nearer to the image, first the image itself and stage by stage a
    nearer one. With a `teacher` the nearer point is one step of its velocity away (consistency
    distillation), without it lies on the same line (easy consistency tuning). Small batches are
    known to fail.

    Source:
        Song et al., arXiv 2303.01469, and Geng et al., arXiv 2406.14548 (ECT).
    """

    first_time: ClassVar[float] = 1.0 / 81.0
    """Flow time of EDM's largest noise level, 80: where the generator starts."""

    time: TimeDensity = LogNormalTime(mean=-1.1, std=2.0)
    """Density of the times of the points; the paper's for CIFAR-10."""
    stage_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps of a stage, each of which halves the step between two points; null = an
    eighth of all steps."""
    distance: Annotated[L2Distance | HuberDistance, Field(discriminator="kind")] = HuberDistance()
    """Distance between the two images."""

    def run(self, context: JobContext) -> Generator:
        from slimctl.jobs.objectives.consistency import ConsistencyTuning
        from slimctl.jobs.training.ray_train import train_model

        network = self.first_network(context.handles)
        made = self.student(Generator, context.handles, self.learned(context.handles), network)
        start = context.input(self.start) if self.start else self.first_weights(context.handles)
        student = made.model_copy(update={"t_start": self.first_time})
        objective = ConsistencyTuning(self, context.handles)
        return train_model(context, self, objective, student, start)[0]

    def stage(self, step: int) -> int:
        """Stage of an optimizer step, from 0."""
        return step // (self.stage_steps or max(1, self.steps // STAGES))

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        network = self._first(inputs)
        made = self.facts_of(inputs, network)
        return check_each(made, lambda: self.check_lines(inputs, made.image, network))

    def _first(self, inputs: Mapping[str, Facts]) -> NetworkSpec | None:
        return inputs["start"].network if self.start else self.plain(inputs)

    def work(self, inputs: Mapping[str, Facts]) -> Work | None:
        return self.line_work(inputs, self._first(inputs), 1)
