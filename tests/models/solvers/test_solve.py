import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from scipy.integrate import solve_ivp

from slimctl.models.flows.analytic import AnalyticFlow
from slimctl.models.flows.flow import Flow
from slimctl.models.solvers.base import even_times, solve
from slimctl.models.solvers.runge_kutta import (
    BOGACKI_SHAMPINE,
    DORMAND_PRINCE,
    begin,
    take_step,
)
from slimctl.models.solvers.spec import EulerSpec, HeunSpec, RK45Spec, SolverSpec
from slimctl.models.spec import ImageShape

SPECS = [EulerSpec(steps=7), HeunSpec(steps=7), RK45Spec(tolerance=1e-4)]


class Field(Flow):
    """A velocity field from a function of (x, t, label), counting evaluations."""

    def __init__(self, function, size=1, classes=0, t_start=0.0):
        super().__init__(ImageShape(channels=1, size=size, classes=classes), t_start)
        self.function = function
        self.calls = 0
        self.batches = []

    def _velocity(self, xt, t, label):
        self.calls += 1
        self.batches.append(len(xt))
        return self.function(xt, t[:, None, None, None], label)


def oscillator(frequency=3.0):
    """Two pixels that turn: x' = -f y, y' = f x; after t they stand at angle f t."""

    def velocity(xt, t, label):
        x, y = xt[..., :1, :], xt[..., 1:, :]
        return frequency * torch.cat((-y, x), dim=-2)

    return Field(velocity, size=2)


def nonlinear():
    """x' = x^2 cos 5 t, x = x0 / (1 - x0 sin(5 t) / 5)."""
    return Field(lambda x, t, label: x.square() * torch.cos(5 * t))


def nonlinear_end(x0, t=1.0):
    return x0 / (1 - x0 * math.sin(5 * t) / 5)


def start(count=4):
    return torch.linspace(-2, 2, count, dtype=torch.float64).view(count, 1, 1, 1)


def order_of(make_spec, sizes):
    x0, errors = start(), []
    for steps in sizes:
        x1 = solve(make_spec(steps), nonlinear(), x0).x1
        errors.append(float((x1 - nonlinear_end(x0)).abs().max()))
    return -np.polyfit(np.log(sizes), np.log(errors), 1)[0]


@pytest.mark.parametrize(
    ("make_spec", "order"),
    [
        (lambda steps: EulerSpec(steps=steps), 1),
        (lambda steps: HeunSpec(steps=steps), 2),
        (lambda steps: HeunSpec(steps=steps, last_step="euler"), 2),
    ],
)
def test_convergence_order(make_spec, order):
    assert order_of(make_spec, [80, 160, 320, 640]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("tableau", [DORMAND_PRINCE, BOGACKI_SHAMPINE], ids=["rk45", "rk23"])
def test_a_tableau_has_its_order(tableau):
    x0, sizes, errors = start(), [16, 32, 64], []
    for steps in sizes:
        flow = nonlinear()
        x, h = x0, torch.full((4,), 1 / steps, dtype=torch.float64)
        for number in range(steps):
            x, _ = take_step(tableau, flow, begin(flow, x, None, number / steps), h)
        errors.append(float((x - nonlinear_end(x0)).abs().max()))
    order = -np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert order == pytest.approx(tableau.order, abs=0.3)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-9])
def test_rk45_error_follows_the_tolerance(tolerance):
    x0 = torch.randn(6, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x1 = solve(RK45Spec(tolerance=tolerance), oscillator(), x0).x1
    cos, sin = math.cos(3.0), math.sin(3.0)
    x, y = x0[..., :1, :], x0[..., 1:, :]
    exact = torch.cat((cos * x - sin * y, sin * x + cos * y), dim=-2)
    assert (x1 - exact).abs().max() < 5 * tolerance


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-8])
def test_rk45_agrees_with_scipy(tolerance):
    """Same method and step control: one sample takes the same evaluations to the same end."""
    data = torch.rand(20, 1, 3, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    flow = AnalyticFlow(data, bandwidth=0.05)
    for seed in range(3):
        x0 = torch.randn(
            1, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )

        def velocity(t, x):
            point = torch.tensor(x).view(1, 1, 3, 3)
            return flow.velocity(point, torch.tensor([t], dtype=torch.float64)).flatten().numpy()

        theirs = solve_ivp(
            velocity, (0.0, 1.0), x0.flatten().numpy(), rtol=tolerance, atol=tolerance
        )
        ours = solve(RK45Spec(tolerance=tolerance), flow, x0)
        assert ours.nfe.item() == theirs.nfev
        np.testing.assert_allclose(ours.x1.flatten(), theirs.y[:, -1], atol=1e-9)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-5])
def test_rk45_with_one_norm_agrees_with_scipy_on_the_whole_batch(tolerance):
    """What the published code does: the batch is one vector to scipy."""
    data = torch.rand(20, 1, 3, 3, generator=torch.Generator().manual_seed(1)) * 2 - 1
    flow = AnalyticFlow(data, bandwidth=0.05, t_start=1e-3)
    x0 = torch.randn(5, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def velocity(t, x):
        time = torch.full((5,), t, dtype=torch.float64)
        return flow.velocity(torch.tensor(x).view(5, 1, 3, 3), time).flatten().numpy()

    theirs = solve_ivp(velocity, (1e-3, 1.0), x0.flatten().numpy(), rtol=tolerance, atol=tolerance)
    ours = solve(RK45Spec(tolerance=tolerance, norm="batch"), flow, x0)
    assert ours.nfe.tolist() == [theirs.nfev] * 5
    np.testing.assert_allclose(ours.x1.flatten(), theirs.y[:, -1], atol=1e-9)
    assert not torch.equal(solve(RK45Spec(tolerance=tolerance), flow, x0).x1, ours.x1)


def test_rk45_result_does_not_depend_on_the_batch():
    """Elementwise fields have no rounding across the batch: results are bit-equal."""

    def stiffer_for_larger(x, t, label):
        return (1 + 30 * x.abs().mean((1, 2, 3), keepdim=True)) * torch.sin(x + 3 * t)

    x0 = torch.randn(9, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    x0 *= torch.linspace(0.1, 4, 9)[:, None, None, None]
    flow = Field(stiffer_for_larger, size=2)
    together = solve(RK45Spec(tolerance=1e-5), flow, x0)
    assert together.nfe.min() < 0.6 * together.nfe.max()
    assert flow.calls == together.nfe.max()
    assert flow.batches[0] == 9
    assert flow.batches[-1] < 9  # samples that have arrived are not evaluated
    for i in (0, 4, 8):
        alone = solve(RK45Spec(tolerance=1e-5), Field(stiffer_for_larger, size=2), x0[i : i + 1])
        assert torch.equal(alone.x1, together.x1[i : i + 1])
        assert torch.equal(alone.nfe, together.nfe[i : i + 1])


@pytest.mark.parametrize("spec", SPECS)
def test_labels_follow_their_samples(spec):
    """x' = label (1 - x): the end tells the label."""
    flow = Field(lambda x, t, label: label[:, None, None, None] * (1 - x), classes=40)
    label = torch.tensor([0, 30, 1, 7, 0])
    x1 = solve(spec, flow, torch.zeros(5, 1, 1, 1), label).x1.flatten()
    assert x1[0] == x1[4] == 0.0
    if spec.kind == "rk45":
        torch.testing.assert_close(x1, 1 - torch.exp(-label.float()), rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="pass a label"):
        solve(spec, flow, torch.zeros(5, 1, 1, 1))


@pytest.mark.parametrize(
    ("spec", "nfe"),
    [
        (EulerSpec(steps=5), 5),
        (HeunSpec(steps=5), 10),
        (HeunSpec(steps=18, last_step="euler"), 35),
    ],
)
def test_fixed_grids_count_their_evaluations(spec, nfe):
    flow = nonlinear()
    solution = solve(spec, flow, start())
    assert solution.nfe.tolist() == [nfe] * 4
    assert flow.calls == nfe
    assert solution.states == ()


def test_rk45_counts_evaluations():
    flow = nonlinear()
    solution = solve(RK45Spec(), flow, start())
    assert solution.nfe.max() == flow.calls
    assert (solution.nfe % 6 == 2).all()


@pytest.mark.parametrize("spec", SPECS)
def test_time_range(spec):
    """x' = 1: the way is the time; start from the flow's own time or the one given."""
    flow = Field(lambda x, t, label: torch.ones_like(x), t_start=0.25)
    x0 = torch.zeros(2, 1, 1, 1, dtype=torch.float64)
    for arguments, way in [({}, 0.75), ({"t_start": 0.0}, 1.0), ({"t_end": 0.5}, 0.25)]:
        x1 = solve(spec, flow, x0, **arguments).x1
        torch.testing.assert_close(x1, torch.full_like(x0, way))
    with pytest.raises(ValueError, match="0 <= t_start < t_end <= 1"):
        solve(spec, flow, x0, t_start=0.5, t_end=0.5)


@pytest.mark.parametrize("spec", SPECS[:2])
def test_states_of_a_grid(spec):
    x0 = start()
    solution = solve(spec, nonlinear(), x0, keep_states=True)
    assert solution.times == even_times(0.0, 1.0, 7)
    assert len(solution.states) == 8
    assert torch.equal(solution.states[0], x0)
    assert torch.equal(solution.states[-1], solution.x1)
    again = solve(spec, nonlinear(), x0, keep_states=True)
    assert torch.equal(again.states[3], solution.states[3])


def test_states_of_rk45_are_refused():
    with pytest.raises(ValueError, match="use euler or heun"):
        solve(RK45Spec(), nonlinear(), start(), keep_states=True)


def test_even_times_hit_both_ends():
    assert even_times(0.0, 1.0, 3) == (0.0, 1 / 3, 2 / 3, 1.0)
    assert even_times(1e-3, 0.7, 49)[-1] == 0.7


def nan_above(limit):
    return lambda x, t, label: torch.where(x > limit, torch.nan, torch.ones_like(x))


@pytest.mark.parametrize("spec", SPECS)
def test_samples_that_are_not_finite_are_counted(spec):
    x0 = torch.tensor([0.0, 0.7, 0.7, -1.0]).view(4, 1, 1, 1)
    with pytest.raises(FloatingPointError, match="2 of 4 samples are not finite"):
        solve(spec, Field(nan_above(1.5)), x0)


def test_the_first_velocity_may_be_lost_too():
    x0 = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)
    with pytest.raises(FloatingPointError, match="1 of 2 samples are not finite"):
        solve(RK45Spec(), Field(nan_above(1.5)), x0)


def test_rk45_gives_up():
    hard = Field(lambda x, t, label: 1e4 * torch.cos(1e4 * t) + 0 * x)
    with pytest.raises(FloatingPointError, match="2 of 2 samples have not arrived after 98"):
        solve(RK45Spec(max_evaluations=100), hard, torch.zeros(2, 1, 1, 1))


def test_a_field_of_zeros_takes_one_step():
    x0 = torch.zeros(3, 1, 2, 2)
    solution = solve(RK45Spec(), Field(lambda x, t, label: torch.zeros_like(x), size=2), x0)
    assert torch.equal(solution.x1, x0)
    assert solution.nfe.max() < 60


@pytest.mark.parametrize("spec", SPECS)
def test_an_empty_batch(spec):
    solution = solve(spec, nonlinear(), torch.zeros(0, 1, 1, 1))
    assert solution.x1.shape == (0, 1, 1, 1)
    assert len(solution.nfe) == 0


@pytest.mark.parametrize("spec", SPECS)
def test_no_gradient_is_recorded(spec):
    weight = torch.ones(1, requires_grad=True)
    assert not solve(spec, Field(lambda x, t, label: weight * x), start().float()).x1.requires_grad


@pytest.mark.parametrize(
    "spec", [RK45Spec(tolerance=1e-4), EulerSpec(steps=50), HeunSpec(steps=20, last_step="euler")]
)
def test_pairs_of_the_analytic_flow_land_on_data(spec):
    data = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(3)) * 2 - 1
    label = torch.arange(12) % 3
    flow = AnalyticFlow(data, label, classes=3)
    x0 = torch.randn(30, 1, 4, 4, generator=torch.Generator().manual_seed(4))
    wanted = torch.arange(30) % 3
    x1 = solve(spec, flow, x0, wanted).x1
    distance, nearest = torch.cdist(x1.flatten(1), data.flatten(1)).min(dim=1)
    assert (distance / 4).max() < 2e-3  # root mean square per pixel
    assert torch.equal(label[nearest], wanted)


def test_rk45_of_the_analytic_flow_has_the_data_distribution():
    """End points of a mixture with bandwidth s: nearest images evenly, rms distance s."""
    data = torch.tensor([-0.9, 0.2, 0.8]).view(3, 1, 1, 1)
    flow = AnalyticFlow(data, bandwidth=0.05)
    levels = (torch.arange(3000, dtype=torch.float64) + 0.5) / 3000
    x0 = torch.special.ndtri(levels).view(-1, 1, 1, 1)
    x1 = solve(RK45Spec(), flow, x0).x1.flatten()
    distance, nearest = (x1[:, None] - data.flatten()).abs().min(dim=1)
    assert torch.bincount(nearest).tolist() == [1000, 1000, 1000]
    assert distance.square().mean().sqrt().item() == pytest.approx(0.05, rel=0.02)


def test_specs_are_reported_apart_by_kind():
    union = TypeAdapter(SolverSpec)
    assert union.validate_python({"kind": "rk45", "tolerance": 1e-4}) == RK45Spec(tolerance=1e-4)
    assert union.validate_python({"kind": "heun", "steps": 3}) == HeunSpec(steps=3)
    assert union.validate_python({"kind": "euler", "steps": 3}) == EulerSpec(steps=3)
