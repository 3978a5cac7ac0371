import pytest
import torch

from slimctl.jobs.base.artifacts import StepGrid, StepPolicy
from slimctl.jobs.base.spec import ref_fields
from slimctl.jobs.kinds.fit_step_grid import FitStepGrid
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.pairs.shards import pair_noise, read_pairs
from slimctl.jobs.storage.flows import open_flow
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.spec import RK45Spec
from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems
from slimctl.orchestrator.pipeline.pipeline import Pipeline

CPU = torch.device("cpu")


def test_a_grid_is_fitted_and_pairs_are_made_with_it(run_job, store, make_dataset, make_analytic):
    flow = make_analytic(make_dataset(count=6))
    fit = FitStepGrid(flow="flow", evaluations=8, samples=8, held_out=8, rounds=0, seed=0)
    grid = run_job(fit, flow=flow)
    assert isinstance(grid, StepGrid)
    assert (grid.nfe, len(grid.solver.times), grid.flow) == (8, 8, flow.id)
    assert 0 < grid.error_median <= grid.error_p90 <= grid.error_p99
    assert 0 <= grid.share_within_rounding <= 1
    assert grid.exact_nfe > 8
    spec = GeneratePairs(flow="flow", count=4, solver="grid", shard_size=4, seed=5)
    pairs = run_job(spec, flow=flow, solver=grid)
    assert pairs.nfe == 8
    made = read_pairs(store, pairs).float()
    x0 = pair_noise(5, torch.arange(4), flow.image)
    exact = solve(RK45Spec(tolerance=1e-5), open_flow(store, flow, CPU), x0).x1
    assert float((made - exact).square().mean().sqrt()) < 20 * grid.error_p99 + 2e-3


def test_a_solver_is_written_out_or_named():
    assert ref_fields(GeneratePairs)["solver"] == (StepGrid, StepPolicy)
    written = GeneratePairs(flow="f", count=1, solver={"kind": "heun", "steps": 3})
    assert written.solver.steps == 3
    assert GeneratePairs(flow="f", count=1, solver="grid").solver.job == "grid"


@pytest.mark.parametrize(
    ("solver", "message"),
    [("data", "makes a Dataset"), ("grod", "did you mean 'grid'"), ({"kind": "rk5"}, "rk45")],
)
def test_a_wrong_solver_is_reported(solver, message):
    with pytest.raises(PipelineProblems) as caught:
        Pipeline(
            name="p",
            jobs={
                "data": {"kind": "load_dataset", "source": "digits"},
                "flow": {"kind": "analytic_flow", "data": "data"},
                "grid": {"kind": "fit_step_grid", "flow": "flow"},
                "pairs": {"kind": "generate_pairs", "flow": "flow", "count": 1, "solver": solver},
            },
        )
    assert message in str(caught.value)
