"""Making some pairs of a finished set again, to see that they are what the recipe says."""

import random

import torch

from slimctl.jobs.base.artifacts import PairSet
from slimctl.jobs.pairs.draw import pair_labels, pair_noise
from slimctl.jobs.pairs.shard_rows import ShardRows
from slimctl.jobs.pairs.shards import open_solve
from slimctl.jobs.pairs.spec import PairRecipe
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.storage.store import Store

LARGEST_DIFFERENCE = 0.02
"""Between two devices or batch sizes, in [-1, 1] pixels: float16 rounds by 0.001 at 2."""


@torch.no_grad()
def recheck_pairs(store: Store, pairs: PairSet, recipe: PairRecipe, count: int) -> list[str]:
    """Solves a few random pairs again; returns what differs, one sentence each.

    Args:
        store: where they are.
        pairs: the finished set.
        recipe: that it was made from.
        count: pairs to make again.
    """
    chosen = sorted(random.SystemRandom().sample(range(pairs.count), min(count, pairs.count)))
    index = torch.tensor(chosen)
    flow = open_flow(store, recipe.flow, torch.device("cpu"))
    run = open_solve(store, recipe, flow)
    solution = run(
        pair_noise(recipe.seed, index, flow.image),
        pair_labels(recipe.seed, index, recipe.flow.label_counts),
    )
    stored = ShardRows(store, pairs).read(index).float()
    differences = (solution.x1.cpu() - stored).abs().amax(dim=(1, 2, 3))
    return [
        f"pair {pair} made again differs by {difference:.3g} from the one stored"
        for pair, difference in zip(chosen, differences.tolist(), strict=True)
        if not difference <= LARGEST_DIFFERENCE
    ]
