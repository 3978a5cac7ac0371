"""A solver as a field of a job: written out or fitted by another job, and what it goes with."""

import pytest

from slimctl.jobs.base.artifacts import StepGrid
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.solvers import asked_nfe, check_solver, fitted_solver
from slimctl.models.flows.parameterisation import EDMSchedule, Parameterisation
from slimctl.models.solvers.spec import EDMHeunSpec, EulerSpec, GridSpec, HeunSpec, RK45Spec
from slimctl.models.spec import ImageShape

EDM = Parameterisation(prediction="edm", schedule=EDMSchedule())
"""Knows noise levels from 0.002 to 80."""
TWO_STEPS = GridSpec(times=(0.0, 0.5), weights=((0.5,), (0.0, 1.0)))


def test_the_solver_of_a_grid_is_what_was_fitted(tmp_path):
    grid = StepGrid(
        image=ImageShape(channels=1, size=4), solver=TWO_STEPS, flow="flow-a", nfe=2,
        error_median=0.1, error_p90=0.1, error_p99=0.1, share_within_rounding=0.0, samples=8,
        exact_nfe=30.0,
    )  # fmt: skip
    context = JobContext("it", "evaluate-a", None, {"g": grid}, tmp_path, Cluster(1))
    assert fitted_solver(context, Ref("g")) == TWO_STEPS
    assert fitted_solver(context, EulerSpec(steps=3)) == EulerSpec(steps=3)


def test_evaluations_are_counted_or_those_of_the_job_that_fits():
    assert asked_nfe(HeunSpec(steps=3), {}) == (6.0, None)
    assert asked_nfe(Ref("grid"), {"solver": Facts(nfe=14.0)}) == (14.0, None)
    assert asked_nfe(Ref("policy"), {"solver": Facts()}) == (None, None)
    assert asked_nfe(RK45Spec(tolerance=1e-5), {}) == (
        127.0,
        "rk45 at 1e-05 takes 127 evaluations a sample",
    )


@pytest.mark.parametrize("solver", [EulerSpec(steps=2), RK45Spec(), TWO_STEPS, Ref("grid")])
@pytest.mark.parametrize("flow", [None, Parameterisation(), EDM])
def test_most_solvers_go_with_any_flow(solver, flow):
    check_solver(solver, flow, "teacher")


def test_edms_sampler_needs_noise_levels():
    check_solver(EDMHeunSpec(), None, "teacher")
    check_solver(EDMHeunSpec(), EDM, "teacher")
    with pytest.raises(FieldError, match="'teacher' is a flow that predicts velocities") as caught:
        check_solver(EDMHeunSpec(), Parameterisation(), "teacher")
    assert caught.value.field == "solver"
    assert caught.value.fix == "use kind: heun, euler or rk45"


@pytest.mark.parametrize(
    "levels", [{}, {"sigma_min": 0.002, "sigma_max": 80}, {"sigma_max": 80.05}]
)
def test_noise_levels_that_the_flow_knows(levels):
    check_solver(EDMHeunSpec(**levels), EDM, "teacher")


@pytest.mark.parametrize(
    ("field", "level"), [("sigma_min", 0.001), ("sigma_max", 81), ("sigma_max", 1e-3)]
)
def test_noise_levels_that_the_flow_does_not_know(field, level):
    with pytest.raises(FieldError) as caught:
        check_solver(EDMHeunSpec(**{field: level}), EDM, "teacher")
    assert caught.value.field == f"solver.{field}"
    assert caught.value.what == (
        f"{field} is {level:g}, but 'teacher' knows noise levels from 0.002 to 80"
    )
