"""Generates reflow pairs (x0, x1) with a flow, on a pool of Ray actors."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from slimctl.jobs.base.artifacts import Flow, Handle, PairSet, StepGrid, StepPolicy
from slimctl.jobs.base.cluster import FORWARD, Cluster, Needs, Range, Work, range_mistake
from slimctl.jobs.base.context import Handles, JobContext
from slimctl.jobs.base.facts import Facts, FieldError, check_each
from slimctl.jobs.base.guidance import Guidance, GuidedJobSpec
from slimctl.jobs.base.memory import Memory, sampling_memory
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.solvers import asked_nfe, check_solver
from slimctl.jobs.base.spec import GROWS, SPEED_ONLY, Placement, SeededJobSpec
from slimctl.models.networks.size import network_size
from slimctl.models.solvers.spec import RK45Spec, SolverSpec
from slimctl.models.spec import SamplingPrecision

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slimctl.jobs.pairs.shards import PairRecipe
    from slimctl.jobs.storage.store import Store


class GeneratePairs(GuidedJobSpec, SeededJobSpec):
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
    solver: SolverSpec | Ref[StepGrid | StepPolicy] = RK45Spec(kind="rk45", tolerance=1e-4)
    """How the flow equation is solved; or the job that fitted a solver to this flow, or trained a
    policy to choose its steps."""
    precision: SamplingPrecision = "float32"
    """Of the network's products; float16 rounds as finely as a GPU's float32 (TF32) does; bfloat16
    moves a pair by about 8-bit rounding."""
    shard_size: int = Field(default=1000, ge=1)
    """Pairs per file, the unit of work of an actor."""
    batch_size: int | None = Field(default=None, ge=1)
    """Pairs solved at once; divides shard_size; null = the whole shard up to 500."""
    actors: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)] | Range, SPEED_ONLY] = "auto"
    """Actors; auto = one per GPU, else one per CPU; {min, max} = as many of them as the cluster has
    at the time."""

    def run(self, context: JobContext) -> PairSet:
        from slimctl.jobs.pairs.generate import generate
        from slimctl.models.counter_random import GENERATOR_VERSION

        flow = self.prompted(context.handles, context.input(self.flow))
        solver = context.input(self.solver) if isinstance(self.solver, Ref) else self.solver
        if isinstance(solver, StepPolicy) and solver.flow != flow.id:
            context.warn(f"policy {solver.id} was trained on another flow, {solver.flow}")
        guidance = self.guided(context.handles)
        recipe = self._recipe(context.artifact_id, flow, _method(solver), guidance)
        most = self.actors.max if isinstance(self.actors, Range) else 0
        actors = most or self.needs(context.cluster).parts
        whole = -(-self.count // self.shard_size) * self.shard_size
        if whole >= 2 * self.count:
            context.log(f"shards are made whole: {whole} pairs for {self.count}; lower shard_size")
        records = generate(context, recipe, self.count, actors)
        made = len(records) * self.shard_size
        return PairSet(
            image=flow.image,
            count=self.count,
            shard_size=self.shard_size,
            seed=recipe.seed,
            generator_version=GENERATOR_VERSION,
            nfe=sum(record.nfe_sum for record in records) / made,
            label_counts=flow.label_counts,
            flip_valid=flow.flip_valid,
            t_start=flow.t_start,
            prompts=flow.prompts,
            shards=tuple(record.file for record in records),
            autoencoder=flow.autoencoder,
        )

    def _recipe(
        self,
        artifact_id: str,
        flow: Flow,
        solver: SolverSpec | StepPolicy,
        guidance: Guidance | None,
    ) -> "PairRecipe":
        from slimctl.jobs.pairs.shards import PairRecipe

        return PairRecipe(
            series=artifact_id.rpartition("-")[0],
            flow=flow,
            solver=solver,
            seed=self.seed or 0,
            shard_size=self.shard_size,
            batch_size=self._batch(),
            precision=self.precision,
            guidance=guidance,
        )

    def recheck(
        self, store: "Store", handle: Handle, inputs: "Mapping[str, Handle]", count: int
    ) -> list[str]:
        from slimctl.jobs.pairs.shards import recheck_pairs

        flow = inputs[self.flow.job]
        if not (isinstance(handle, PairSet) and isinstance(flow, Flow)):
            return [f"{handle.id} is not a pair set made by a flow"]
        solver = inputs[self.solver.job] if isinstance(self.solver, Ref) else self.solver
        if isinstance(solver, Handle) and not isinstance(solver, (StepGrid, StepPolicy)):
            return [f"{solver.id} is nothing that solves a flow"]
        handles = Handles(store, handle.id, inputs)
        guidance, flow = self.guided(handles), self.prompted(handles, flow)
        recipe = self._recipe(handle.id, flow, _method(solver), guidance)
        return recheck_pairs(store, handle, recipe, count)

    def needs(self, cluster: Cluster) -> Needs:
        """Every device it can use; the pool starts on those that are free and grows."""
        shards = -(-self.count // self.shard_size)
        free = cluster.gpus or cluster.cpus
        chosen = self.actors.min if isinstance(self.actors, Range) else self.actors
        wanted = free if chosen == "auto" else chosen
        actors = max(1, min(wanted, free, shards))
        on_gpus = cluster.gpus > 0
        return Needs(0 if on_gpus else actors, actors if on_gpus else 0, parts=actors)

    def _batch(self) -> int:
        if self.batch_size is not None:
            return self.batch_size
        return max(n for n in range(1, min(500, self.shard_size) + 1) if self.shard_size % n == 0)

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        known = inputs["flow"]
        asked = inputs["prompts"] if self.prompts else known
        made = Facts(
            image=known.image,
            count=self.count,
            flip_valid=known.flip_valid,
            latents=known.latents,
            prompt_classes=asked.prompt_classes,
            text_width=asked.text_width,
        )
        return check_each(
            made,
            self._check_batch,
            self._check_actors,
            self._check_norm,
            lambda: check_solver(self.solver, known.flow, self.flow.job),
            lambda: self._check_policy(inputs.get("solver"), known),
            lambda: self.check_guidance(inputs, "flow", self.flow.job),
        )

    def _check_batch(self) -> None:
        if self.shard_size % self._batch():
            raise FieldError(
                "batch_size",
                f"batch_size {self.batch_size} does not divide shard_size {self.shard_size}",
                "make shard_size a multiple of batch_size",
            )

    def _check_actors(self) -> None:
        if mistake := range_mistake(self.actors):
            raise FieldError("actors", mistake, "swap them")

    def _check_norm(self) -> None:
        if isinstance(self.solver, RK45Spec) and self.solver.norm == "batch":
            raise FieldError(
                "solver.norm",
                "with one error norm for a batch each pair would depend on its batch mates",
                "set norm: sample",
            )

    def _check_policy(self, policy: Facts | None, flow: Facts) -> None:
        """Raises FieldError where the job that makes the solver made it for something else."""
        if policy is None or not isinstance(self.solver, Ref):
            return
        job = self.solver.job
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

    def memory(
        self, inputs: "Mapping[str, Facts]", cluster: Cluster, limit: int | None
    ) -> Memory | None:
        known, low = inputs["flow"], self.precision != "float32"
        weaker = inputs.get("weaker", Facts()).network
        network, batch = known.network, self._batch()
        return sampling_memory(network, known.image, batch, weaker=weaker, bfloat16=low)

    def work(self, inputs: "Mapping[str, Facts]") -> Work | None:
        known = inputs["flow"]
        if known.network is None or known.image is None:
            return None
        size = network_size(known.network, known.image)
        nfe, assumed = asked_nfe(self.solver, inputs)
        if nfe is None:
            return None
        made = -(-self.count // self.shard_size) * self.shard_size
        flop = FORWARD * size.macs * nfe * self.costs * made
        said = [assumed] if assumed else []
        if made >= 2 * self.count:
            said.append(f"{made:,} pairs for {self.count:,}: shards are made whole (shard_size)")
        return Work(size.parameters, size.macs, flop, tuple(said))


def _method(solver: SolverSpec | StepGrid | StepPolicy) -> SolverSpec | StepPolicy:
    return solver.solver if isinstance(solver, StepGrid) else solver
