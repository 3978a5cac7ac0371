import pytest
import torch

from slimctl.models.flows.flow import Flow
from slimctl.models.routing import RoutedFlow
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.spec import EulerSpec
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=2, size=1, classes=5)


class Towards(Flow):
    """Leads from any x0 to `value` plus the label, in one step."""

    def __init__(self, value, image=IMAGE, t_start=0.0):
        super().__init__(image, t_start)
        self.value = value
        self.asked = []

    def _velocity(self, xt, t, label):
        self.asked.append(len(xt))
        return (self.value + label)[:, None, None, None] - xt


@pytest.fixture
def fleet():
    return RoutedFlow([Towards(100.0), Towards(200.0)], [(0, 3), (1, 2, 4)])


def test_each_sample_is_answered_by_the_member_of_its_class(fleet):
    label = torch.tensor([4, 0, 1, 3, 3, 2])
    x0 = torch.randn(6, 2, 1, 1)
    made = x0 + fleet.velocity(x0, torch.zeros(6), label)
    expected = torch.tensor([204.0, 100.0, 201.0, 103.0, 103.0, 202.0])
    torch.testing.assert_close(made, expected[:, None, None, None].expand_as(made))
    assert [each.asked for each in fleet.members] == [[3], [3]]


@pytest.mark.parametrize(("label", "member"), [([3], 0), ([2], 1), ([1, 4, 4], 1)])
def test_only_the_members_that_are_needed_run(fleet, label, member):
    x0 = torch.randn(len(label), 2, 1, 1)
    fleet.velocity(x0, torch.zeros(len(label)), torch.tensor(label))
    assert fleet.members[member].asked == [len(label)]
    assert fleet.members[1 - member].asked == []


def test_solvers_take_a_fleet_like_any_flow(fleet):
    solution = solve(EulerSpec(steps=1), fleet, torch.randn(2, 2, 1, 1), torch.tensor([0, 1]))
    torch.testing.assert_close(solution.x1[:, 0, 0, 0], torch.tensor([100.0, 201.0]))


@pytest.mark.parametrize(
    ("members", "subsets", "message"),
    [
        ([Towards(1.0)], [(0, 1), (2, 3, 4)], "1 members cannot serve 2"),
        ([], [], "0 members"),
        ([Towards(1.0), Towards(1.0)], [(0, 1), (1, 2, 3, 4)], "label 1 is in the subsets"),
        ([Towards(1.0), Towards(1.0)], [(0, 1), (2, 3)], "label 4 in no subset"),
        ([Towards(1.0), Towards(1.0, t_start=0.5)], [(0, 1), (2, 3, 4)], "start time"),
    ],
)
def test_members_and_subsets_must_fit(members, subsets, message):
    with pytest.raises(ValueError, match=message):
        RoutedFlow(members, subsets)
