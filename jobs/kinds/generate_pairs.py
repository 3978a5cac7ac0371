"""Generates reflow pairs (x0, x1) with a flow, on a pool of Ray actors."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from jobs.base.artifacts import Flow, PairSet
from jobs.base.cluster import Cluster, Needs
from jobs.base.context import JobContext
from jobs.base.facts import Facts, FieldError
from jobs.base.refs import Ref
from jobs.base.solvers import check_solver
from jobs.base.spec import GROWS, SPEED_ONLY, Placement, SeededJobSpec
from jobs.base.work import FORWARD, Work
from models.networks.size import network_size
from models.solvers.expected import expected_nfe
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
    solver: SolverSpec = RK45Spec(kind="rk45", tolerance=1e-4)
    """How the flow equation is solved."""
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
        self.expect({"flow": Facts(flow.image, flip_valid=flow.flip_valid, flow=flow)})
        series = context.artifact_id.rpartition("-")[0]
        seed = self.seed or 0
        recipe = PairRecipe(series, flow, self.solver, seed, self.shard_size, self._batch())
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
        check_solver(self.solver, known.flow, self.flow.job)
        if isinstance(self.solver, RK45Spec) and self.solver.norm == "batch":
            raise FieldError(
                "solver.norm",
                "with one error norm for a batch each pair would depend on its batch mates",
                "set norm: sample",
            )
        return Facts(image=known.image, count=self.count, flip_valid=known.flip_valid)

    def work(self, inputs: "Mapping[str, Facts]") -> Work | None:
        known = inputs["flow"]
        if known.network is None or known.image is None:
            return None
        size = network_size(known.network, known.image)
        nfe, assumed = expected_nfe(self.solver)
        flop = FORWARD * size.macs * nfe * self.count
        return Work(size.parameters, size.macs, flop, (assumed,) if assumed else ())
