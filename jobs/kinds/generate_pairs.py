"""Generates reflow pairs (x0, x1) with a flow, on a pool of Ray actors."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from jobs.base.artifacts import Flow, PairSet, StepPolicy
from jobs.base.cluster import Cluster, Needs
from jobs.base.context import JobContext
from jobs.base.facts import Facts, FieldError
from jobs.base.refs import Ref
from jobs.base.spec import GROWS, SPEED_ONLY, Placement, SeededJobSpec
from models.solvers.spec import RK45Spec, SolverSpec

if TYPE_CHECKING:
    from collections.abc import Mapping


class GeneratePairs(SeededJobSpec):
    """Noise from the seed, and where the flow takes it.

    The first n pairs of a seed are the same whatever `count` is: raising it makes the difference.

    Source:
        SlimFlow, arXiv 2407.12718, section 3; the paper's RK45 uses one error norm for a batch,
        here each sample has its own step, so a pair does not depend on its batch mates.
    """

    placement: ClassVar[Placement] = "own"

    flow: Ref[Flow]
    """The teacher."""
    count: Annotated[int, Field(ge=1), GROWS]
    """Number of pairs."""
    solver: SolverSpec | Ref[StepPolicy] = RK45Spec(kind="rk45", tolerance=1e-4)
    """How the flow equation is solved; or the job that trained a policy to choose its steps."""
    shard_size: int = Field(default=1000, ge=1)
    """Pairs per file, the unit of work of an actor."""
    batch_size: int | None = Field(default=None, ge=1)
    """Pairs solved at once; divides shard_size; null = the whole shard up to 500."""
    actors: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)], SPEED_ONLY] = "auto"
    """Actors; auto = one per GPU, else one per CPU."""

    def run(self, context: JobContext) -> PairSet:
        from jobs.pairs.generate import generate
        from jobs.pairs.spec import PairRecipe
        from models.counter_random import GENERATOR_VERSION

        flow = context.input(self.flow)
        solver = context.input(self.solver) if isinstance(self.solver, Ref) else self.solver
        known = {"flow": Facts(flow.image, flip_valid=flow.flip_valid)}
        if isinstance(solver, StepPolicy):
            known["solver"] = Facts(solver.image, problem=solver.problem_kind)
            if solver.flow != flow.id:
                context.warn(f"policy {solver.id} was trained on another flow, {solver.flow}")
        self.expect(known)
        series = context.artifact_id.rpartition("-")[0]
        seed = self.seed or 0
        recipe = PairRecipe(series, flow, solver, seed, self.shard_size, self._batch())
        needs = self.needs(context.cluster)
        actors = int(needs.cpus + needs.gpus)
        records = generate(context, recipe, self.count, actors)
        made = len(records) * self.shard_size
        return PairSet(
            image=flow.image,
            count=self.count,
            shard_size=self.shard_size,
            seed=seed,
            generator_version=GENERATOR_VERSION,
            nfe=sum(record.nfe_sum for record in records) / made,
            label_counts=flow.label_counts,
            flip_valid=flow.flip_valid,
            t_start=flow.t_start,
            shards=tuple(record.file for record in records),
        )

    def needs(self, cluster: Cluster) -> Needs:
        """Every device it can use; the pool starts on those that are free and grows."""
        shards = -(-self.count // self.shard_size)
        free = cluster.gpus or cluster.cpus
        wanted = free if self.actors == "auto" else self.actors
        actors = max(1, min(wanted, free, shards))
        return Needs(cpus=0, gpus=actors) if cluster.gpus else Needs(cpus=actors, gpus=0)

    def _batch(self) -> int:
        if self.batch_size is not None:
            return self.batch_size
        return max(n for n in range(1, min(500, self.shard_size) + 1) if self.shard_size % n == 0)

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        if self.shard_size % self._batch():
            raise FieldError(
                "batch_size",
                f"batch_size {self.batch_size} does not divide shard_size {self.shard_size}",
                "make shard_size a multiple of batch_size",
            )
        known = inputs["flow"]
        if isinstance(self.solver, Ref) and "solver" in inputs:
            self._check_policy(self.solver.job, inputs["solver"], known)
        return Facts(image=known.image, count=self.count, flip_valid=known.flip_valid)

    def _check_policy(self, job: str, policy: Facts, flow: Facts) -> None:
        if policy.problem == "three_body":
            raise FieldError(
                "solver",
                f"the policy '{job}' was trained on three-body systems, not on a flow",
                "name a train_step_policy job with problem: {kind: flow}",
            )
        if policy.image and flow.image and policy.image != flow.image:
            raise FieldError(
                "solver",
                f"the policy '{job}' was trained on images of another shape: {policy.image}, not "
                f"{flow.image}",
                f"train a policy on '{self.flow.job}'",
            )
