import pytest
import torch
from pydantic import ValidationError

from slimctl.models.flows.flow import Flow
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.fit_grid import (
    ROUNDING_RMS,
    end_errors,
    fit_grid,
    fit_rows,
    follow,
    warped_times,
)
from slimctl.models.solvers.spec import EulerSpec, GridSpec, HeunSpec, RK45Spec
from slimctl.models.spec import ImageShape

MATRIX = torch.tensor([[-0.5, 2.0], [-2.0, -0.5]])


class Rotation(Flow):
    """dx/dt = A x on two pixels' worth of channels, whose end is exp(A) x0."""

    def __init__(self, t_start: float = 0.0) -> None:
        super().__init__(ImageShape(channels=2, size=2), t_start)

    def _velocity(self, xt, t, label):
        return torch.einsum("ij,bjhw->bihw", MATRIX, xt)


def noise(count, seed=0):
    return torch.randn(count, 2, 2, 2, generator=torch.Generator().manual_seed(seed))


def euler_as_grid(steps):
    return GridSpec(
        times=tuple(number / steps for number in range(steps)),
        weights=tuple((1 / steps,) * (number + 1) for number in range(steps)),
    )


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_euler_is_a_grid(steps):
    flow, x0 = Rotation(), noise(3)
    wanted = solve(EulerSpec(steps=steps), flow, x0)
    found = solve(euler_as_grid(steps), flow, x0)
    torch.testing.assert_close(found.x1, wanted.x1)
    assert found.nfe.tolist() == wanted.nfe.tolist() == [steps] * 3


def test_heun_is_a_grid():
    spec = GridSpec(times=(0.0, 0.999999999), weights=((1.0,), (0.5, 0.5)))
    flow, x0 = Rotation(), noise(3)
    torch.testing.assert_close(solve(spec, flow, x0).x1, solve(HeunSpec(steps=1), flow, x0).x1)


def test_states_are_kept():
    solution = solve(euler_as_grid(3), Rotation(), noise(2), keep_states=True)
    assert len(solution.states) == len(solution.times) == 4
    assert torch.equal(solution.states[-1], solution.x1)
    assert solution.times[-1] == 1.0


@pytest.mark.parametrize(
    ("times", "weights", "message"),
    [
        ((0.0, 0.0), ((1.0,), (0.5, 0.5)), "must increase"),
        ((0.0, 0.5), ((1.0,), (0.5,)), "rows of 1 to 2"),
        ((0.0, 1.0), ((1.0,), (0.5, 0.5)), "less than 1"),
        ((), (), "at least 1"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(times, weights, message):
    with pytest.raises(ValidationError, match=message):
        GridSpec(times=times, weights=weights)


def test_a_grid_of_another_start_is_refused():
    with pytest.raises(ValueError, match="fit one to this flow"):
        solve(euler_as_grid(3), Rotation(t_start=0.1), noise(2))


def test_exact_trajectories_are_those_of_the_matrix_exponential():
    x0 = noise(5)
    exact = follow(Rotation(), x0, None, 1e-6)
    for t in (0.0, 0.31, 0.77, 1.0):
        wanted = torch.einsum("ij,bjhw->bihw", torch.matrix_exp(MATRIX * t), x0)
        torch.testing.assert_close(exact.at(t), wanted, rtol=1e-3, atol=1e-3)


def test_a_fitted_grid_ends_where_the_flow_ends_for_new_samples():
    """A linear flow's end is a polynomial of A x0: five evaluations leave nearly nothing."""
    flow = Rotation()
    exact = follow(flow, noise(16), None, 1e-6)
    fit = fit_rows(flow, exact, warped_times(0.0, 5, 1.0, 1.0))
    x0 = noise(32, seed=1)
    wanted = torch.einsum("ij,bjhw->bihw", torch.matrix_exp(MATRIX), x0)
    errors = end_errors(solve(fit.solver, flow, x0).x1, wanted)
    assert float(errors.max()) < ROUNDING_RMS / 10
    plain = solve(HeunSpec(steps=5), flow, x0)
    assert float(end_errors(plain.x1, wanted).median()) > 10 * float(errors.median())


def test_moving_times_never_makes_the_fit_worse():
    flow = Rotation()
    exact = follow(flow, noise(8), None, 1e-5)
    assert fit_grid(flow, exact, 5, rounds=1).error <= fit_grid(flow, exact, 5, rounds=0).error


def test_a_fit_is_the_same_each_time():
    flow = Rotation(t_start=0.01)
    exact = follow(flow, noise(8), None, 1e-5)
    first, second = (fit_grid(flow, exact, 5, rounds=1).solver for _ in range(2))
    assert first == second
    assert first.times[0] == 0.01


@pytest.mark.parametrize("early", [1.0, 2.0])
@pytest.mark.parametrize("late", [1.0, 3.0])
def test_warped_times_rise_from_the_start_and_stay_below_one(early, late):
    times = warped_times(0.1, 12, early, late)
    assert times[0] == 0.1
    assert all(low < high for low, high in zip(times, (*times[1:], 1.0), strict=True))


def test_tight_rk45_agrees_with_following():
    x0 = noise(4)
    torch.testing.assert_close(
        follow(Rotation(), x0, None, 1e-6).points[-1],
        solve(RK45Spec(tolerance=1e-6), Rotation(), x0).x1,
        rtol=1e-4,
        atol=1e-5,
    )
