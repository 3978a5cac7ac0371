import pytest

from slimctl.jobs.kinds.evaluate_step_policy import EvaluateStepPolicy
from slimctl.jobs.kinds.fit_step_grid import FitStepGrid
from slimctl.jobs.steps import measure as measure_flow


@pytest.fixture(autouse=True)
def _few_ways(monkeypatch):
    monkeypatch.setattr(measure_flow, "TOLERANCES", (1e-1, 1e-3, 1e-5))
    monkeypatch.setattr(measure_flow, "EVEN_STEPS", (3, 8))
    monkeypatch.setattr(measure_flow, "HEUN_STEPS", (4, 12))


def test_a_report_on_a_flow(run_job, store, flow_policy):
    policy, flow, _ = flow_policy
    report = run_job(
        EvaluateStepPolicy(policy="policy", flow="flow", episodes=6), policy=policy, flow=flow
    )
    groups = list(dict.fromkeys(row.group for row in report.rows))
    assert groups == [
        "policy", "fixed step", "even grid, rk23", "even grid, heun", "rk45", "rk23",
    ]  # fmt: skip
    tight = next(row for row in report.rows if row.name == "rk45 1.0e-05")
    assert tight.bad_share == 0.0
    assert report.bad_error == 2.3e-3
    asked = EvaluateStepPolicy(policy="policy", flow="flow", episodes=6, tolerance=1e-9)
    strict = run_job(asked, policy=policy, flow=flow)
    assert (strict.bad_error, strict.policy_bad_share) == (1e-9, 1.0)
    assert [row.mean_return for row in strict.rows] == [row.mean_return for row in report.rows]
    assert tight.mean_cost > next(r for r in report.rows if r.name == "rk45 1.0e-01").mean_cost
    assert store.file(report, "pareto.png").stat().st_size > 1000


def test_another_flow_of_the_same_shape_and_a_grid_of_another_are_warnings(
    run_job, recorder, make_dataset, make_analytic, flow_policy
):
    policy, flow, _ = flow_policy
    other = make_analytic(make_dataset(count=8, classes=2), conditional=True)
    fit = {"flow": "flow", "evaluations": 5, "samples": 8, "held_out": 8, "rounds": 0, "seed": 0}
    grid = run_job(FitStepGrid.model_validate(fit), flow=flow)
    asked = EvaluateStepPolicy(policy="p", flow="f", grids=("g",), episodes=6)
    report = run_job(asked, policy=policy, flow=other, **{"grids.0": grid})
    row = next(row for row in report.rows if row.group == "fitted grid")
    assert (row.name, row.mean_cost, row.learned) == ("g, 5 evaluations", 5.0, False)
    first, second = (said["message"] for said in recorder.said("warning"))
    assert "another flow" in first
    assert second.startswith("grid '")
    assert second.endswith(f"was fitted to another flow, {flow.id}")
