"""What a report says of its rows, and what may be compared."""

import numpy as np
import pytest

from slimctl.jobs.base.artifacts import StepPolicy, StepRow
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.kinds.evaluate_step_policy import EvaluateStepPolicy
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=1, size=4)
POLICY = StepPolicy(
    id="train_step_policy-a", problem={}, problem_kind="three_body", hidden=(8,),
    observation_size=5, training_seeds=(1, 2), validation=(-3.0, -1.0), best_at=(10, 20), chosen=1,
    best_return=-1.0, decisions=60,
)  # fmt: skip


def row(name, mean_return, **changes) -> StepRow:
    fields = {
        "name": name, "group": "g", "cost": 10.0, "mean_cost": 11.0, "error": 0.1,
        "error_p90": 0.2, "bad_share": 0.0, "mean_return": mean_return,
    }  # fmt: skip
    return StepRow(**fields | changes)


def test_a_report_sums_up_its_rows():
    rows = (
        row("mu 0.03", -9.0),
        row("mu 0.1", -2.0),
        row("mu 0.3", -5.0),
        row("rk45 1e-3", -0.1, group="rk45"),  # its steps are not fixed
        row("policy, seed 0", -4.0, learned=True),
        row("policy, seed 1", -1.0, learned=True, mean_cost=7.0, bad_share=0.25),
    )
    other = (row("leapfrog", -8.0),)
    asked = EvaluateStepPolicy(policy="p", episodes=4)
    returns = [np.array([one.mean_return - 1.0, one.mean_return + 1.0]) for one in rows]
    report = asked._report(POLICY, rows, returns, other, 1e-6, ("pareto.png",))
    assert (report.best_fixed, report.best_fixed_return) == ("mu 0.1", -2.0)
    assert report.policy_return == -2.5, "the mean over the training seeds"
    gain = (report.advantage, report.advantage_low, report.advantage_high)
    assert gain == (-0.5, -0.5, -0.5), "by episode, so what both share is no uncertainty"
    assert (report.policy_cost, report.policy_bad_share) == (7.0, 0.25), "of the chosen one"
    assert (report.policy, report.problem_kind, report.episodes) == (POLICY.id, "three_body", 4)
    assert (report.rows, report.transfer, report.bad_error) == (rows, other, 1e-6)


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ({"episodes": 200}, {"policy": Facts(problem="three_body")}),
        ({"flow": "f", "episodes": 5000}, {"policy": Facts(IMAGE, problem="flow")}),
        ({"flow": "f", "grids": ["g"]}, {"policy": Facts(IMAGE, problem="flow"), "flow": Facts()}),
        (
            {"flow": "f", "grids": ["g"]},
            {
                "policy": Facts(IMAGE, problem="flow"),
                "flow": Facts(IMAGE),
                "grids.0": Facts(IMAGE),
            },
        ),
        ({"flow": "f", "grids": ["g"]}, {"policy": Facts(), "grids.0": Facts(IMAGE)}),
    ],
)
def test_what_goes_together_or_is_not_known_yet_is_accepted(fields, known):
    asked = EvaluateStepPolicy.model_validate({"policy": "p"} | fields)
    assert asked.expect(known) == Facts()


@pytest.mark.parametrize(
    ("policy", "grid", "message"),
    [
        (Facts(problem="three_body"), Facts(), "no fitted grids"),
        (
            Facts(ImageShape(channels=1, size=4), problem="flow"),
            Facts(ImageShape(channels=1, size=8)),
            "another shape",
        ),
    ],
)
def test_a_grid_that_does_not_belong_is_refused(policy, grid, message):
    flow = None if policy.problem == "three_body" else "flow"
    asked = EvaluateStepPolicy(policy="policy", flow=flow, grids=("grid",))
    with pytest.raises(FieldError, match=message):
        asked.expect({"policy": policy, "grids.0": grid})


def test_more_test_systems_than_there_are(refused):
    error = refused(
        EvaluateStepPolicy(policy="p", episodes=201), policy=Facts(problem="three_body")
    )
    assert error.field == "episodes"
