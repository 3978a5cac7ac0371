import pytest
import torch
from mixture import PARAMETERISATIONS, WALKED, mixture_behind, truth

from slimctl.jobs.evaluation.step_grid import fit_step_grid
from slimctl.jobs.kinds.fit_step_grid import FitStepGrid
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.models import counter_random
from slimctl.models.counter_random import Stream
from slimctl.models.pixels import to_float
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.fit_grid import ROUNDING_RMS, end_errors
from slimctl.models.solvers.spec import RK45Spec


@pytest.fixture
def fit(make_context):
    """`fit(flow, **fields)` fits a grid of five evaluations."""
    context = make_context("fit_step_grid-1")
    few = {"flow": "f", "evaluations": 5, "samples": 8, "held_out": 8, "rounds": 0, "seed": 0}

    def run(flow, **fields):
        return fit_step_grid(context, FitStepGrid.model_validate(few | fields), flow)

    return run


def test_straight_trajectories_are_followed_exactly(fit, make_dataset, make_analytic):
    """All noise of the closed form of one image goes to that image, on straight lines."""
    grid = fit(make_analytic(make_dataset(count=1)))
    assert grid.error_p99 < 1e-4
    assert grid.share_within_rounding == 1.0
    assert grid.nfe == len(grid.solver.times) == 5
    assert sum(grid.solver.weights[-1]) == pytest.approx(1.0, abs=1e-4)


def test_a_gaussian_ends_where_it_must(fit, store, make_dataset, make_analytic):
    """Of a normal distribution of mean m and width s all noise goes to m + s x0, on bent lines."""
    flow = make_analytic(make_dataset(count=1)).model_copy(update={"bandwidth": 0.3})
    grid = fit(flow)
    mean = to_float(load_dataset_tensors(store, flow.dataset)[0])
    x0 = torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    ends = solve(grid.solver, open_flow(store, flow, torch.device("cpu")), x0).x1
    errors = (ends - mean - 0.3 * x0).flatten(1).square().mean(1).sqrt()
    assert errors.max() < 1e-3
    assert grid.error_median < 1e-3
    assert grid.exact_nfe > 5 * grid.nfe


def test_labels_are_followed(fit, make_dataset, make_analytic):
    """With one image a class the trajectories of each label are straight."""
    grid = fit(make_analytic(make_dataset(count=3, classes=3), conditional=True))
    assert grid.error_p99 < 1e-4
    assert grid.image.classes == 3


def test_the_error_is_that_of_samples_that_nothing_was_fitted_to(
    fit, store, make_dataset, make_analytic
):
    flow = make_analytic(make_dataset(count=6)).model_copy(update={"bandwidth": 0.5})
    grid = fit(flow)
    opened = open_flow(store, flow, torch.device("cpu"))
    x0 = counter_random.normal(0, Stream.SAMPLE_NOISE, torch.arange(16), (1, 4, 4))
    exact = solve(RK45Spec(tolerance=1e-6), opened, x0).x1
    errors = end_errors(solve(grid.solver, opened, x0).x1, exact)
    assert grid.error_median == pytest.approx(float(errors[8:].quantile(0.5)), rel=1e-4)
    assert grid.error_median != pytest.approx(float(errors[:8].quantile(0.5)), rel=1e-4)
    assert fit(flow, held_out=16).solver == grid.solver
    assert fit(flow, seed=1).solver != grid.solver


def test_what_it_says(fit, recorder, make_dataset, make_analytic):
    grid = fit(make_analytic(make_dataset(count=1)))
    assert [(said["done"], said["total"]) for said in recorder.said("progress")] == [(1, 3), (2, 3)]
    (line,) = (said["message"] for said in recorder.said("log"))
    assert line.startswith("5 evaluations: error ")
    assert line.endswith(
        f"100.0% within 8-bit rounding; an exact trajectory takes {grid.exact_nfe:.0f}"
    )


@pytest.mark.parametrize("name", WALKED)
def test_what_is_reported_is_what_users_get(fit, make_dataset, make_analytic, monkeypatch, name):
    """Whatever a network predicts, and wherever its flow is entered: within a fifth."""
    flow = mixture_behind(PARAMETERISATIONS[name])
    monkeypatch.setattr("slimctl.jobs.evaluation.step_grid.open_guided", lambda *_: flow)
    grid = fit(make_analytic(make_dataset(count=1)), evaluations=8, samples=16, held_out=32)
    index = torch.arange(16, 48)
    x0 = counter_random.normal(0, Stream.SAMPLE_NOISE, index, (1, 4, 4))
    errors = end_errors(solve(grid.solver, flow, x0).x1.double(), truth(flow, x0))
    assert grid.error_median == pytest.approx(float(errors.quantile(0.5)), rel=0.2)
    assert grid.error_p90 == pytest.approx(float(errors.quantile(0.9)), rel=0.2)
    share = float((errors <= ROUNDING_RMS).double().mean())
    assert grid.share_within_rounding == pytest.approx(share, abs=0.07)


def test_an_exact_trajectory_is_not_interrupted(fit, store, make_dataset, make_analytic):
    flow = make_analytic(make_dataset(count=6)).model_copy(update={"bandwidth": 0.5})
    x0 = counter_random.normal(0, Stream.SAMPLE_NOISE, torch.arange(8, 16), (1, 4, 4))
    whole = solve(RK45Spec(tolerance=1e-5), open_flow(store, flow, torch.device("cpu")), x0)
    assert fit(flow).exact_nfe == float(whole.nfe.double().mean())
