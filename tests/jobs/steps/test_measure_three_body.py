from builders import step_policy

from slimctl.jobs.base.artifacts import StepReport
from slimctl.jobs.kinds.evaluate_step_policy import EvaluateStepPolicy


def test_a_report_on_three_bodies(run_job, store):
    policy = run_job(step_policy())
    asked = EvaluateStepPolicy(policy="policy", episodes=4, intervals=6)
    report = run_job(asked, policy=policy)
    assert isinstance(report, StepReport)
    names = [row.name for row in report.rows]
    assert names == ["mu 0.03", "mu 0.05", "mu 0.1", "mu 0.3", "policy, seed 0", "policy, seed 1"]
    groups = {row.group for row in report.transfer}
    assert groups == {
        "leapfrog, time_scale", "yoshida4, time_scale", "hermite, fixed", "leapfrog, fixed",
        "yoshida4, fixed",
    }  # fmt: skip
    assert all(row.return_low <= row.mean_return <= row.return_high for row in report.rows)
    fixed = [row for row in report.rows if not row.learned]
    assert report.best_fixed_return == max(row.mean_return for row in fixed)
    assert report.bad_error == 1e-4
    strict = run_job(asked.model_copy(update={"tolerance": 1e-15}), policy=policy)
    assert strict.bad_error == 1e-15
    assert strict.rows[0].bad_share > report.rows[0].bad_share
    assert [row.mean_return for row in strict.rows] == [row.mean_return for row in report.rows]
    for name in ("pareto.png", "trajectory.png", "actions.png"):
        assert store.file(report, name).read_bytes()[:4] == b"\x89PNG"
