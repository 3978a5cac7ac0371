import pytest
from builders import quality

from slimctl.jobs.base.artifacts import QualityReport, StepReport, StepRow
from slimctl.orchestrator.cli.tables import print_quality, print_steps, print_table


def test_words_stand_left_and_numbers_right(capsys):
    print_table(("job", "count"), [("a", "1,000"), ("long", "2")])
    assert capsys.readouterr().out.splitlines() == [
        "job   count",
        "----  -----",
        "a     1,000",
        "long      2",
    ]


def test_negative_numbers_are_numbers(capsys):
    print_table(("kid",), [("-0.001 ± 0.002",), ("12",)])
    assert capsys.readouterr().out.splitlines()[-1] == "            12"


@pytest.mark.parametrize("rows", [[], [("", "")]])
def test_tables_may_be_empty(capsys, rows):
    print_table(("job", "count"), rows)
    assert capsys.readouterr().out.splitlines()[:2] == ["job  count", "---  -----"]


def test_nothing_measured_prints_nothing(capsys):
    print_quality({})
    assert capsys.readouterr().out == ""


def test_the_floor_is_reported_under_the_table(capsys):
    report = quality(fid_real=0.5, samples=300, parameters=10, threads=2)
    routed = {"model_type": "Fleet", "parameters_total": 50, "routing_us": 0.4}
    part = {"samples": 9, "real": 8, "precision": None, "recall": None}
    fleet = QualityReport.model_validate(
        report.model_dump()
        | routed
        | {"parts": [part | {"labels": (0, 3), "fid": 1.25, "fid_real": 0.5}]}
    )
    print_quality({"fleet": fleet})
    *_, row, _, by_part = capsys.readouterr().out.splitlines()
    assert "10 of 50" in row
    assert by_part == "fleet, FID by labels (real images): 0,3: 1.25 (0.50); routing 0.4 us"
    print_quality({"student_2": report})
    *table, floor = capsys.readouterr().out.splitlines()
    assert len(table) == 3
    assert floor == (
        "FID of 300 real images drawn with replacement: 0.50; "
        "latency at batch 1 on cpu, 2 thread(s)"
    )
    drawn = report.model_copy(update={"fid_real_sd": 0.25, "fid_real_draws": 20})
    print_quality({"student_2": drawn})
    said = capsys.readouterr().out
    assert "drawn with replacement: 0.50 (mean of 20 draws, standard deviation 0.25); lat" in said


def test_a_latency_that_was_not_measured_alone_is_marked(capsys):
    quiet, loud = (quality(latency_ms=1, latency_quiet=each) for each in (True, False))
    print_quality({"alone": quiet, "beside": loud})
    said = capsys.readouterr().out
    rows = {line.split()[0]: line for line in said.splitlines()}
    assert rows["alone"].endswith("  1.00 ms")
    assert rows["beside"].endswith(" ~1.00 ms")
    assert said.splitlines()[-1] == "~ something else computed while this latency was measured"
    print_quality({"alone": quiet})
    assert "~" not in capsys.readouterr().out


def step_row(**changes) -> StepRow:
    fields = {
        "name": "mu 0.01", "group": "hermite, time_scale", "cost": 5000.0, "mean_cost": 5576.4,
        "error": 1.3e-8, "error_p90": None, "bad_share": 0.005, "mean_return": -1.544,
        "return_low": -1.6, "return_high": -1.5,
    }  # fmt: skip
    return StepRow(**fields | changes)


def test_steps_have_a_table_for_each_report(capsys):
    report = StepReport(
        policy="p", problem_kind="three_body", episodes=200, bad_error=1e-4,
        rows=(step_row(), step_row(name="policy, seed 0", learned=True, mean_cost=18.25)),
        transfer=(step_row(group="leapfrog, fixed", mean_return=None),),
        policy_return=-1.55, best_fixed="mu 0.01", best_fixed_return=-1.544, policy_cost=18.25,
        policy_bad_share=0.005,
    )  # fmt: skip
    print_steps({"quality": report})
    said = capsys.readouterr().out
    assert "quality: 200 test episodes" in said
    assert "5.58 k" in said
    assert "18.2" in said
    assert "1.3e-08" in said
    assert "lost" in said
    assert "-1.544 [-1.600, -1.500]" in said
    assert "other integrators, without retraining" in said
    assert said.splitlines()[-1] == (
        "policies return -1.550, the best fixed steps (mu 0.01) -1.544; bad is an error above "
        "0.0001"
    )


def test_the_ways_to_solve_a_flow_are_compared_where_they_are_good_enough(capsys):
    rows = (
        step_row(name="policy, seed 0", learned=True, mean_cost=20.0, bad_share=0.05),
        step_row(name="policy, seed 1", learned=True, mean_cost=10.0, bad_share=0.11),
        step_row(name="grid, 14 steps", group="fitted grid", mean_cost=14.0, bad_share=0.1),
        step_row(name="rk45 1e-3", group="rk45", mean_cost=40.0, bad_share=0.0),
        step_row(name="rk23 1e-3", group="rk23", mean_cost=50.0, bad_share=0.0),
        step_row(name="h 0.02", group="fixed step", mean_cost=5.0, bad_share=0.0),
    )
    fields = {
        "policy": "p", "problem_kind": "flow", "episodes": 200, "bad_error": 2.3e-3,
        "policy_return": -1.0, "best_fixed": "h 0.02", "best_fixed_return": -2.0,
        "policy_cost": 20.0, "policy_bad_share": 0.05, "advantage": 1.0, "advantage_low": 0.5,
        "advantage_high": 1.25,
    }  # fmt: skip
    print_steps({"quality": StepReport(rows=rows, **fields)})
    paired, cheapest = capsys.readouterr().out.splitlines()[-2:]
    assert paired.endswith("on the same episodes: +1.000 [0.500, 1.250]")
    assert cheapest == (
        "cheapest with 90 % of the samples within 0.0023: "
        "policy, seed 0 (20.0 evaluations, 0.50x); "
        "grid, 14 steps (14.0 evaluations, 0.35x); rk45 1e-3 (40.0 evaluations, 1.00x)"
    )
    print_steps({"quality": StepReport(rows=rows[:3], **fields)})
    assert capsys.readouterr().out.endswith("no tolerance of rk45 and rk23 reaches it\n")


def test_no_steps_print_nothing(capsys):
    print_steps({})
    assert capsys.readouterr().out == ""
