"""Measures step policies on test episodes, against fixed steps and adaptive solvers."""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from slimctl.jobs.base.artifacts import Flow, StepGrid, StepPolicy, StepReport, StepRow
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, FieldError, check_each
from slimctl.jobs.base.guidance import GuidedJobSpec
from slimctl.jobs.base.refs import Ref

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slimctl.models.steps.environment import Floats


class EvaluateStepPolicy(GuidedJobSpec):
    """Cost, error and return of a policy, of every fixed step and of adaptive solvers.

    Three bodies: test systems 0, 1, ..., every value of the action grid, the default 0.03, and the
    other integrators without retraining. Flow: test noises, every step of the grid, even grids,
    fitted grids, rk45 and rk23 at tolerances from 1e-1 to 1e-5.
    """

    version: ClassVar[int] = 2

    policy: Ref[StepPolicy]
    """What to measure; the policies of all its training seeds are."""
    flow: Ref[Flow] | None = None
    """The flow of a flow policy; null for three bodies."""
    grids: tuple[Ref[StepGrid], ...] = ()
    """Solvers fitted to the flow by `fit_step_grid`, to compare with."""
    episodes: int = Field(default=200, ge=2, le=5000)
    """Test systems (at most 200) or noises; training and validation use others."""
    intervals: int = Field(default=300, ge=1)
    """Length of a three-body episode, intervals of 0.1 yr."""
    tolerance: float | None = Field(default=None, gt=0)
    """Error above which an episode counts as bad; null = 1e-4 of three bodies, that of the reward
    of a flow. A policy trained with a smaller one keeps a margin."""

    def wants_gpu(self) -> bool:
        return self.flow is not None

    def run(self, context: JobContext) -> StepReport:
        from slimctl.jobs.storage.flows import problem_of

        policy = context.input(self.policy)
        flow = None
        if self.flow is not None:
            flow = self.prompted(context.handles, context.input(self.flow))
        problem = problem_of(policy)
        if flow is None:
            return self._three_body(context, policy)
        if flow.id != policy.flow:
            context.warn(f"the policy was trained on another flow of that shape, {policy.flow}")
        from slimctl.jobs.steps.measure import measure_flow
        from slimctl.jobs.steps.pictures import draw_pareto
        from slimctl.models.steps.spec import FlowProblem

        assert isinstance(problem, FlowProblem)
        grids = {ref.job: context.input(ref) for ref in self.grids}
        for name, grid in grids.items():
            if grid.flow != flow.id:
                context.warn(f"grid '{name}' was fitted to another flow, {grid.flow}")
        tolerance = self.tolerance or problem.reward.tolerance
        rows, returns = measure_flow(
            context, policy, problem, flow, self.guided(context.handles), self.episodes, grids,
            tolerance,
        )  # fmt: skip
        draw_pareto(rows, "RMS distance to the exact end", context.folder / "pareto.png")
        return self._report(policy, rows, returns, (), tolerance, ("pareto.png",))

    def _three_body(self, context: JobContext, policy: StepPolicy) -> StepReport:
        from slimctl.jobs.steps.measure import (
            BAD_ERROR,
            Examination,
            measure_three_body,
        )
        from slimctl.jobs.steps.pictures import draw_actions, draw_pareto, draw_trajectory
        from slimctl.jobs.storage.flows import problem_of
        from slimctl.models.steps.spec import ThreeBodyProblem

        problem = problem_of(policy)
        assert isinstance(problem, ThreeBodyProblem)
        tolerance = self.tolerance or BAD_ERROR
        test = Examination(self.episodes, self.intervals, tolerance)
        found = measure_three_body(context, policy, problem, test)
        folder = context.folder
        draw_pareto(found.rows, "|dE/E| at the end", folder / "pareto.png")
        draw_trajectory(found.watched, problem.actions, folder / "trajectory.png")
        draw_actions(found.watched, problem.actions, folder / "actions.png")
        pictures = ("pareto.png", "trajectory.png", "actions.png")
        return self._report(policy, found.rows, found.returns, found.transfer, tolerance, pictures)

    def _report(
        self,
        policy: StepPolicy,
        rows: "Sequence[StepRow]",
        returns: "Sequence[Floats]",
        transfer: "Sequence[StepRow]",
        bad_error: float,
        pictures: tuple[str, ...],
    ) -> StepReport:
        from slimctl.jobs.steps.measure import advantage, best_fixed

        learned = [row for row in rows if row.learned]
        best = rows[best_fixed(rows)]
        chosen = learned[policy.chosen]
        gain, low, high = advantage(rows, returns)
        return StepReport(
            policy=policy.id,
            problem_kind=policy.problem_kind,
            episodes=self.episodes,
            bad_error=bad_error,
            rows=tuple(rows),
            transfer=tuple(transfer),
            policy_return=sum(row.mean_return or 0.0 for row in learned) / len(learned),
            best_fixed=best.name,
            best_fixed_return=best.mean_return or 0.0,
            advantage=gain,
            advantage_low=low,
            advantage_high=high,
            policy_cost=chosen.mean_cost,
            policy_bad_share=chosen.bad_share,
            pictures=pictures,
        )

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        job = self.flow.job if self.flow else ""
        return check_each(
            Facts(),
            lambda: self._check_policy(inputs),
            lambda: self.check_guidance(inputs, "flow", job),
        )

    def _check_policy(self, inputs: "Mapping[str, Facts]") -> None:
        policy = inputs["policy"]
        if policy.problem == "flow" and self.flow is None:
            raise FieldError(
                "flow",
                f"'{self.policy.job}' was trained on a flow, but no flow is named",
                "add 'flow: ...', the name of a job that makes a Flow",
            )
        if policy.problem == "three_body":
            self._check_three_body()
        for at, grid in enumerate(self.grids):
            image = inputs[f"grids.{at}"].image if f"grids.{at}" in inputs else None
            if image and policy.image and image != policy.image:
                raise FieldError(
                    "grids",
                    f"'{grid.job}' was fitted to images of another shape: {image}, not "
                    f"{policy.image}",
                    "fit one to the flow of the policy",
                )
        if policy.image and "flow" in inputs and inputs["flow"].image not in (None, policy.image):
            raise FieldError(
                "flow",
                f"'{self.policy.job}' was trained on images of another shape: {policy.image}, "
                f"not {inputs['flow'].image}",
                "measure it on the flow that it was trained on",
            )

    def _check_three_body(self) -> None:
        if self.grids:
            raise FieldError(
                "grids",
                f"'{self.policy.job}' was trained on three bodies, which have no fitted grids",
                "remove grids",
            )
        if self.flow is not None:
            raise FieldError(
                "flow",
                f"'{self.policy.job}' was trained on three bodies, but flow is '{self.flow.job}'",
                "remove flow, or measure a policy that was trained on a flow",
            )
        if self.episodes > 200:
            raise FieldError(
                "episodes",
                f"episodes is {self.episodes}, but there are 200 test systems",
                "make it 200 or less",
            )
