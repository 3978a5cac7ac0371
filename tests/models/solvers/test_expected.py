import pytest
import torch

from slimctl.models.flows.analytic import AnalyticFlow
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.spec import EulerSpec, HeunSpec, RK45Spec, expected_nfe


@pytest.mark.parametrize(
    "solver", [EulerSpec(steps=7), HeunSpec(steps=7), HeunSpec(steps=7, last_step="euler")]
)
def test_fixed_grids_are_exact(solver):
    flow = AnalyticFlow(torch.rand(3, 1, 2, 2), None, 0, bandwidth=0.1)
    taken = solve(solver, flow, torch.randn(2, 1, 2, 2), None).nfe
    assert expected_nfe(solver) == (float(taken[0]), None)


def test_an_adaptive_solver_is_the_published_count():
    nfe, assumed = expected_nfe(RK45Spec(tolerance=1e-5))
    assert nfe == 127
    assert assumed == "rk45 at 1e-05 takes 127 evaluations a sample"
    assert expected_nfe(RK45Spec(tolerance=3.2e-4))[0] == pytest.approx(127 / 2)
