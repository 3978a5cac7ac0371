"""A fleet as one flow: every sample goes to the network that serves its class or its prompt.

To solvers, losses and metrics a fleet is a conditional flow like any other; which of its members
answers is settled here, per sample.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import nn

from slimctl.models.conditions import Condition, Embedded
from slimctl.models.flows.flow import Flow
from slimctl.models.partition import check_subsets
from slimctl.models.shapes import Float, Int, Tensor


class Router(ABC):
    """Says who serves a condition. Abstract."""

    members: int
    """Number of those who serve."""

    @abstractmethod
    def member(self, label: Condition) -> Int[Tensor, " b"]:
        """The member of each row, from 0."""

    def route(self, label: Condition) -> list[tuple[int, Tensor | slice]]:
        """Members that a batch needs, and the rows of each.

        A request of one sample costs one look-up; its label should be on the CPU for that.
        """
        member = self.member(label)
        if len(member) == 1:
            return [(int(member[0]), slice(None))]
        needed = sorted(set(member.tolist()))
        if len(needed) == 1:
            return [(needed[0], slice(None))]
        return [(each, (member == each).nonzero().squeeze(1)) for each in needed]


class ClassRouter(Router):
    """Members that each serve some of the classes. Final."""

    def __init__(self, subsets: Sequence[Sequence[int]], classes: int) -> None:
        """Takes the classes of each member.

        Raises:
            ValueError: classes without or with two members.
        """
        check_subsets(subsets, classes)
        member_of = {label: at for at, subset in enumerate(subsets) for label in subset}
        self._member_of = torch.tensor([member_of[label] for label in range(classes)])
        self.members = len(subsets)

    def member(self, label: Condition) -> Int[Tensor, " b"]:
        assert isinstance(label, Tensor)  # checked: a fleet of classes has labels
        if label.device != self._member_of.device:
            self._member_of = self._member_of.to(label.device)
        return self._member_of[label]


class TextRouter(Router):
    """Members that each serve the texts near a centre. Final.

    A text belongs to the member whose squared distance to its vector, plus the member's price, is
    least; a prompt of the set that was split to the member that it was given to.
    """

    def __init__(
        self,
        centres: Float[Tensor, "k d"],
        prices: Float[Tensor, " k"],
        parts: Int[Tensor, " n"] | None = None,
    ) -> None:
        """Takes centres and prices, and the member of each prompt by number, where known."""
        self.centres = centres
        self.prices = prices
        self.parts = parts
        self.members = len(centres)

    def member(self, label: Condition) -> Int[Tensor, " b"]:
        if isinstance(label, Embedded):
            return self.nearest(label.vector())
        if label is None or self.parts is None:
            raise ValueError("a fleet of texts routes texts\n  fix: pass flow.encode(prompts)")
        return self.parts.to(label.device)[label]

    def nearest(self, vector: Float[Tensor, "b d"]) -> Int[Tensor, " b"]:
        """The member of each vector."""
        centres = self.centres.to(vector.device)
        squares = centres.square().sum(1) - 2.0 * vector.to(centres.dtype) @ centres.T
        return (squares + self.prices.to(vector.device)).argmin(1)


class RoutedFlow(Flow):
    """Members behind a router. Final."""

    def __init__(self, members: Sequence[Flow], router: Router | Sequence[Sequence[int]]) -> None:
        """Puts members together with what says who serves whom: a router, or classes of each.

        Raises:
            ValueError: not one part for each member, classes without or with two members, or
                members of different images or start times.
        """
        served = router.members if isinstance(router, Router) else len(router)
        if len(members) != served or not members:
            raise ValueError(f"{len(members)} members cannot serve {served} subsets")
        image, t_start = members[0].image, members[0].t_start
        if any(each.image != image or each.t_start != t_start for each in members):
            raise ValueError(
                "the members differ in images, classes or start time"
                "\n  fix: make them for the same images, and start sampling at the same time"
            )
        super().__init__(image, t_start)
        self.members = nn.ModuleList(members)
        self.text = members[0].text
        self._flows = tuple(members)
        self.router = router if isinstance(router, Router) else ClassRouter(router, image.classes)

    def enter(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The point at t_start that noise stands for, which is the same for all members."""
        return self._flows[0].enter(x0)

    def route(self, label: Condition) -> list[tuple[int, Tensor | slice]]:
        """Members that a batch needs, and the rows of each."""
        return self.router.route(label)

    def _velocity(self, xt: Tensor, t: Tensor, label: Condition) -> Tensor:
        return self._mean_velocity(xt, t, t, label)

    def _mean_velocity(self, xt: Tensor, t: Tensor, end: Tensor, label: Condition) -> Tensor:
        assert label is not None  # checked: a fleet has classes or texts
        velocity = torch.empty_like(xt)
        for number, rows in self.route(label):
            member = self._flows[number]
            part = member.mean_velocity(xt[rows], t[rows], end[rows], label[rows])
            velocity[rows] = part.to(xt.dtype)
        return velocity
