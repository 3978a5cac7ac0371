"""What a pair set is made from: everything that decides pair i."""

from dataclasses import dataclass

from slimctl.jobs.base.artifacts import Flow, StepPolicy
from slimctl.models.solvers.spec import SolverSpec
from slimctl.models.spec import Precision


@dataclass(frozen=True)
class PairRecipe:
    """Decides every pair of an endless series.

    Args:
        series: id of the series, `<kind>-<key>` without a count.
        flow: the flow that makes them.
        solver: how its equation is solved, or the policy that chooses its steps.
        seed: of noise and labels.
        shard_size: pairs per shard file.
        batch_size: pairs solved at once; divides shard_size.
        precision: of the network's products.
    """

    series: str
    flow: Flow
    solver: SolverSpec | StepPolicy
    seed: int
    shard_size: int
    batch_size: int
    precision: Precision = "float32"
