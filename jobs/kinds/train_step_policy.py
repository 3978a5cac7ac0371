"""Trains policies that choose step sizes: of three-body systems, or of a flow."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from slimctl.jobs.base.artifacts import Flow, StepPolicy
from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, FieldError, check_each
from slimctl.jobs.base.guidance import GuidedJobSpec
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import SPEED_ONLY, Placement, SeededJobSpec
from slimctl.models.steps.spec import DoubleDqnSpec, FlowProblem, Problem, ThreeBodyProblem

if TYPE_CHECKING:
    from slimctl.models.spec import ImageShape


class TrainStepPolicy(GuidedJobSpec, SeededJobSpec):
    """Double deep Q-learning of step sizes, several training seeds side by side.

    The best policy of the best seed on episodes that training never sees is the one that is used.

    Source: arXiv 2502.12809; the decision process is ours and serves both problems.
    """

    version: ClassVar[int] = 4
    placement: ClassVar[Placement] = "own"

    problem: Problem = ThreeBodyProblem(kind="three_body")
    """What is decided: `three_body` or `flow`."""
    flow: Ref[Flow] | None = None
    """The flow of a flow problem; null for three bodies."""
    learner: DoubleDqnSpec = DoubleDqnSpec()
    """Settings of the learner."""
    training_seeds: int = Field(default=3, ge=1, le=100)
    """Policies trained from different random numbers."""
    checkpoint_s: Annotated[float, Field(gt=0), SPEED_ONLY] = 60.0
    """Longest training time between two checkpoints, s."""

    def run(self, context: JobContext) -> StepPolicy:
        from slimctl.jobs.steps import train
        from slimctl.jobs.steps.pictures import draw_curves
        from slimctl.jobs.storage.tensors import save_weights

        flow = None
        if self.flow is not None:
            flow = self.prompted(context.handles, context.input(self.flow))
        task = train.PolicyTask(
            context.job, context.artifact_id, self, flow, self.guided(context.handles),
            context.store, context.reporter,
        )  # fmt: skip
        needs = self.needs(context.cluster)
        trained = train.train_policies(context, task, needs)
        weights = {f"{one.number}.{name}": w for one in trained for name, w in one.weights.items()}
        save_weights(weights, context.folder / "policy.safetensors")
        draw_curves([one.curve for one in trained], context.folder / "curves.png")
        context.device_s = sum(one.seconds for one in trained)
        best = max(trained, key=lambda one: one.validation)
        return StepPolicy(
            problem=self.problem.model_dump(mode="json"),
            problem_kind=self.problem.kind,
            image=None if flow is None else flow.image,
            flow="" if flow is None else flow.id,
            hidden=self.learner.hidden,
            observation_size=best.observation_size,
            training_seeds=tuple(one.seed for one in trained),
            validation=tuple(one.validation for one in trained),
            best_at=tuple(one.best_at for one in trained),
            chosen=best.number,
            best_return=best.validation,
            decisions=self.learner.decisions,
        )

    def needs(self, cluster: Cluster) -> Needs:
        """A device for each training seed, as far as there are any: three bodies take no GPU."""
        on_gpus = self.flow is not None and cluster.gpus > 0
        free = cluster.gpus if on_gpus else cluster.cpus
        actors = max(1, min(self.training_seeds, free))
        return Needs(0 if on_gpus else actors, actors if on_gpus else 0, parts=actors)

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        if isinstance(self.problem, FlowProblem) and self.flow is None:
            raise FieldError(
                "flow",
                "problem is flow, but no flow is named",
                "add 'flow: ...', the name of a job that makes a Flow",
            )
        if isinstance(self.problem, ThreeBodyProblem) and self.flow is not None:
            raise FieldError(
                "flow",
                f"problem is three_body, which needs no flow, but flow is '{self.flow.job}'",
                "remove flow, or set problem: {kind: flow}",
            )
        image: ImageShape | None = inputs["flow"].image if "flow" in inputs else None
        made = Facts(image=image, problem=self.problem.kind)
        return check_each(made, lambda: self.check_guidance(inputs, "flow", self._flow_job()))

    def _flow_job(self) -> str:
        return self.flow.job if self.flow else ""
