"""A fleet as one flow: every sample goes to the network that serves its class.

To solvers, losses and metrics a fleet is a conditional flow like any other; which of its members
answers is settled here, per sample.
"""

from collections.abc import Sequence

import torch
from torch import nn

from slimctl.models.conditions import Condition
from slimctl.models.flows.flow import Flow
from slimctl.models.partition import check_subsets
from slimctl.models.shapes import Float, Int, Tensor


class RoutedFlow(Flow):
    """Members that each serve some of the classes. Final."""

    def __init__(self, members: Sequence[Flow], subsets: Sequence[Sequence[int]]) -> None:
        """Puts members together, each with the classes that it serves.

        Raises:
            ValueError: not one subset for each member, classes without or with two members, or
                members of different images or start times.
        """
        if len(members) != len(subsets) or not members:
            raise ValueError(f"{len(members)} members cannot serve {len(subsets)} subsets")
        image, t_start = members[0].image, members[0].t_start
        if any(each.image != image or each.t_start != t_start for each in members):
            raise ValueError(
                "the members differ in images, classes or start time"
                "\n  fix: make them for the same images, and start sampling at the same time"
            )
        check_subsets(subsets, image.classes)
        super().__init__(image, t_start)
        self.members = nn.ModuleList(members)
        self._flows = tuple(members)
        member_of = {label: at for at, subset in enumerate(subsets) for label in subset}
        self._member_of = tuple(member_of[label] for label in range(image.classes))

    def enter(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The point at t_start that noise stands for, which is the same for all members."""
        return self._flows[0].enter(x0)

    def route(self, label: Int[Tensor, " b"]) -> list[tuple[int, Tensor | slice]]:
        """Members that a batch needs, and the rows of each.

        A request of one sample costs one look-up; the label should be on the CPU for that.
        """
        if len(label) == 1:
            return [(self._member_of[int(label[0])], slice(None))]
        table = torch.tensor(self._member_of, device=label.device)
        member = table[label]
        needed = sorted(set(member.tolist()))
        if len(needed) == 1:
            return [(needed[0], slice(None))]
        return [(each, (member == each).nonzero().squeeze(1)) for each in needed]

    def _velocity(self, xt: Tensor, t: Tensor, label: Condition) -> Tensor:
        return self._mean_velocity(xt, t, t, label)

    def _mean_velocity(self, xt: Tensor, t: Tensor, end: Tensor, label: Condition) -> Tensor:
        assert isinstance(label, Tensor)  # checked: a fleet has classes
        velocity = torch.empty_like(xt)
        for number, rows in self.route(label):
            member = self._flows[number]
            part = member.mean_velocity(xt[rows], t[rows], end[rows], label[rows])
            velocity[rows] = part.to(xt.dtype)
        return velocity
