"""Every way to walk a flow enters it at the same point, whatever its network predicts."""

import pytest
import torch
from mixture import PARAMETERISATIONS, WALKED, mixture_behind, truth

from slimctl.models.losses import one_step_velocity, two_step_error
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.fit_grid import end_errors, follow
from slimctl.models.solvers.runge_kutta import rk23
from slimctl.models.solvers.spec import HeunSpec, RK45Spec
from slimctl.models.steps.flow_environment import exact_paths
from slimctl.models.steps.flow_walk import FlowWalk

DENOISING = {name: how for name, how in PARAMETERISATIONS.items() if how.denoises}


def noise(count=6):
    return torch.randn((count, 1, 4, 4), generator=torch.Generator().manual_seed(3))


def walked(flow, x0):
    """The walk of a policy that takes even steps."""
    walk = FlowWalk(flow, x0.clone(), None)
    while not bool(walk.arrived().all()):
        walk.advance(torch.full_like(walk.last_h, 0.02))
    return walk.point.x


WALKS = {
    "heun": (lambda flow, x0: solve(HeunSpec(steps=60), flow, x0).x1, 1e-3),
    "rk45": (lambda flow, x0: solve(RK45Spec(tolerance=1e-5), flow, x0).x1, 1e-3),
    "rk23": (lambda flow, x0: rk23(flow, x0, tolerance=1e-5).x1, 1e-3),
    "follow": (lambda flow, x0: follow(flow, x0, None, 1e-5).points[-1], 1e-3),
    "exact paths": (lambda flow, x0: exact_paths(flow, x0, None, 1e-5, 4).points[:, -1], 1e-3),
    "policy": (walked, 1e-3),
}


@pytest.mark.parametrize("name", WALKED)
def test_every_walk_ends_where_the_flow_does(name):
    flow, x0 = mixture_behind(PARAMETERISATIONS[name]), noise()
    exact = truth(flow, x0)
    # Raw noise, where it should be (1 - t_start) x0, ends several of these bounds away.
    for walk, (run, bound) in WALKS.items():
        error = float(end_errors(run(flow, x0).double(), exact).max())
        assert error < bound, (walk, error)


@pytest.mark.parametrize("name", DENOISING)
def test_a_denoiser_goes_in_one_step_to_what_it_expects_at_its_start(name):
    flow, x0 = mixture_behind(DENOISING[name]), noise()
    sigma = torch.full((len(x0),), flow.sigma_max)
    expected = flow.denoise(flow.sigma_max * x0, sigma)
    found = flow.enter(x0 + one_step_velocity(flow, x0))
    scale = 1e-5 * (1 + flow.sigma_max)  # one that predicts noise is multiplied by it
    torch.testing.assert_close(found, expected, rtol=0, atol=scale)
    s = torch.full((len(x0),), 0.5)
    middle = (1 - 0.5) * x0 + 0.5 * expected
    second = middle + 0.5 * flow.velocity(middle, s)
    wanted = (second - 1.0).square().flatten(1).mean(1)
    torch.testing.assert_close(
        two_step_error(flow, x0, torch.ones_like(x0), s), wanted, rtol=scale, atol=scale
    )
