"""Mean velocities: the loss of a network that crosses a part of a flow in one step."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from slimctl.jobs.base.context import Handles
from slimctl.jobs.training.draws import Draws, same_masks
from slimctl.jobs.training.line_source import LineSource
from slimctl.jobs.training.objective import WHOLE, Objective, Part, Share
from slimctl.models.counter_random import Stream
from slimctl.models.engine import without_engine
from slimctl.models.flow_maps import along_the_flow, mean_velocity_error
from slimctl.models.flows.path import interpolate
from slimctl.models.flows.time_density import quantile

if TYPE_CHECKING:
    from slimctl.jobs.kinds.mean_flow import MeanFlow


@dataclass
class MeanVelocities(Objective):
    """Regression of u - (end - t) du/dt on the velocity, with du/dt along the flow held fixed.

    The derivative is taken of the bare network in float32, without a gradient, with the dropout
    masks of the pass that has one.

    Source:
        Geng et al., arXiv 2505.13447 and 2512.02012, with time turned round.
    """

    spec: "MeanFlow"
    handles: Handles

    def prepare(self, share: Share) -> None:
        self._source = LineSource(self.spec, self.handles, share)

    def loss(self, network: nn.Module, step: int, part: Part = WHOLE) -> Tensor:
        spec, draws = self.spec, self._source.draws.of(part)
        x0, x1, label = self._source.of_step(draws, step)
        t, end = self._times(draws, step)
        xt = interpolate(x0, x1, t)
        velocity = self._source.velocity((x0, x1), xt, t, label)
        bare = _bare(network)

        def mean_velocity(x: Tensor, begin: Tensor, stop: Tensor) -> Tensor:
            found: Tensor = bare(x, begin, label, stop)
            return found

        tangent = velocity
        if spec.tangent == "own" and spec.teacher is None:
            with same_masks(xt.device), torch.no_grad():
                tangent = mean_velocity(xt, t, t).to(xt.dtype)
        with same_masks(xt.device):
            derivative = along_the_flow(mean_velocity, xt, t, end, tangent, spec.derivative)
        u = network(xt, t, label, end).float()
        error = mean_velocity_error(u, derivative, velocity, t, end, spec.power, spec.offset)
        return draws.weighted(error.mean())

    def _times(self, draws: Draws, step: int) -> tuple[Tensor, Tensor]:
        """Begin and end of each sample's step, the same where it has none."""
        first = draws.times(step, self.spec.time)
        second = quantile(self.spec.end_time, draws.uniform(step, Stream.GUIDED_TIME))
        has_step = draws.uniform(step, Stream.SUBSET) < self.spec.steps_share
        t = torch.where(has_step, torch.minimum(first, second), first)
        return t, torch.where(has_step, torch.maximum(first, second), first)


def _bare(network: nn.Module) -> nn.Module:
    """The network itself: nothing differentiates forward through workers or an engine."""
    module = network.module if isinstance(network, DistributedDataParallel) else network
    return without_engine(module)
