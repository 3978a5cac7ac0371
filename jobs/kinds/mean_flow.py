"""Trains one model of 1 to N steps: mean velocities (mean flows)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from pydantic import Field

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.base.cluster import Work
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, FieldError, check_each
from slimctl.jobs.training.lines import LineTrainingSpec
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.flows.spec import LogNormalTime, TimeDensity
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.networks.two_times.spec import TwoTimesSpec


class MeanFlow(LineTrainingSpec):
    """A flow that knows the mean velocity of every step, so that 1 to N of Euler's steps are exact.

    It learns from real images, from pairs or from a teacher's velocity, and is evaluated with
    `solver: {kind: euler, steps: N}`, N = 1 upwards. Its network is the one asked for with a second
    time, the end of a step, as input; started from a flow, it begins as that flow. It learns the
    ODE's own map, as pairs do.

    Source:
        Geng et al., arXiv 2505.13447, and in the form of arXiv 2512.02012 (improved mean flows);
        with time turned round (here t = 0 is noise).
    """

    time: TimeDensity = LogNormalTime(mean=-0.6, std=1.6)
    """Density of the time at which a step begins; the papers' for CIFAR-10."""
    end_time: TimeDensity = LogNormalTime(mean=-4.0, std=1.6)
    """Density of the time at which it ends; the two are put in order."""
    steps_share: float = Field(default=0.75, ge=0, le=1)
    """Share of samples with a step; the others have begin and end at once, as flow matching."""
    tangent: Literal["own", "given"] = "own"
    """Direction of the derivative: the network's own velocity (improved mean flows), or the one
    that is learned from; a teacher's velocity is always taken."""
    derivative: Literal["jvp", "finite_difference"] = "jvp"
    """Forward differentiation of the network, or a central difference of two evaluations."""
    power: float = Field(default=0.75, ge=0, le=2)
    """Power of the squared error that each sample is divided by; 0 = plain, 1 evens all out."""
    offset: float = Field(default=1e-3, gt=0)
    """What is added to the squared error (summed over pixels) before that."""

    def run(self, context: JobContext) -> Flow:
        from slimctl.jobs.objectives.mean_flow import MeanVelocities
        from slimctl.jobs.training.ray_train import train_model

        network = two_times(self.first_network(context.handles))
        student = self.student(Flow, context.handles, self.learned(context.handles), network)
        start = context.input(self.start) if self.start else self.first_weights(context.handles)
        objective = MeanVelocities(self, context.handles)
        return train_model(context, self, objective, student, start)[0]

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        known = self._first(inputs)
        able = known is None or known.kind == "two_times" or known.takes_second_time
        network = two_times(known) if known and able else None
        made = replace(self.facts_of(inputs, network), flow=Parameterisation())
        return check_each(
            made,
            lambda: self._check_network(known, able=able),
            lambda: self.check_lines(inputs, made.image, network),
        )

    def _check_network(self, network: NetworkSpec | None, *, able: bool) -> None:
        if network is None or able:
            return
        raise FieldError(
            "start" if self.start else "network",
            f"a {network.kind} takes no second time, and is not differentiated forward",
            "use a song_unet, adm or mlp, or train a one-step student by match_distribution",
        )

    def _first(self, inputs: Mapping[str, Facts]) -> NetworkSpec | None:
        return inputs["start"].network if self.start else self.plain(inputs)

    def work(self, inputs: Mapping[str, Facts]) -> Work | None:
        known = self._first(inputs)
        if known is None or not (known.kind == "two_times" or known.takes_second_time):
            return None
        more = 2 + (self.teacher is None and self.tangent == "own")
        return self.line_work(inputs, two_times(known), more)


def two_times(network: NetworkSpec) -> TwoTimesSpec:
    """The network with a second time, which it may have already."""
    return network if isinstance(network, TwoTimesSpec) else TwoTimesSpec(network=network)
