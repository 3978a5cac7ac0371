"""Consistency: the loss of a network that says the same image from two points of a flow."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from slimctl.jobs.base.context import Handles
from slimctl.jobs.training.draws import same_masks
from slimctl.jobs.training.line_source import LineSource
from slimctl.jobs.training.objective import WHOLE, Objective, Part, Share
from slimctl.models.flow_maps import consistency_end, consistency_error
from slimctl.models.flows.path import expand_time, interpolate
from slimctl.models.losses import distance, expected_image

if TYPE_CHECKING:
    from slimctl.jobs.kinds.consistency import Consistency


@dataclass
class ConsistencyTuning(Objective):
    """Distance of the images behind two neighbouring points, over the gap of their noise levels.

    Source:
        Geng et al., arXiv 2406.14548, with time turned round.
    """

    spec: "Consistency"
    handles: Handles

    def prepare(self, share: Share) -> None:
        self._source = LineSource(self.spec, self.handles, share)
        self._distance = distance(self.spec.distance)

    def loss(self, network: nn.Module, step: int, part: Part = WHOLE) -> Tensor:
        draws = self._source.draws.of(part)
        x0, x1, label = self._source.of_step(draws, step)
        t = draws.times(step, self.spec.time).clamp_min(self.spec.first_time)
        end = consistency_end(t, self.spec.stage(step))
        xt = interpolate(x0, x1, t)
        velocity = self._source.velocity((x0, x1), xt, t, label)
        later = xt + expand_time(end - t) * velocity
        with same_masks(xt.device), torch.no_grad():
            wanted = expected_image(network, later, end, label)
        made = expected_image(network, xt, t, label)
        each = consistency_error(made, wanted, t, end, self._distance)
        return draws.weighted(each.mean())
