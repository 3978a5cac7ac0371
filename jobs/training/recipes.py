"""Settings of distillation that were tried as a whole, by name."""

from collections.abc import Mapping
from typing import Any, Literal

RecipeName = Literal["slimflow", "slimflow_huber"]

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "slimflow": {
        "pair_weight": 1.0,
        "two_step_weight": 1.0,
        "distance": {"kind": "l2"},
    },
    "slimflow_huber": {
        "pair_weight": 1.0,
        "two_step_weight": 0.3,
        "distance": {"kind": "huber"},
    },
}
"""`slimflow`: the weights of arXiv 2407.12718, section 4, whose distance is LPIPS where its weight
files are at hand. `slimflow_huber`: what did best on digits at equal size and equal steps
(benchmarks/README.md)."""


def with_recipe(data: Any) -> Any:
    """Fields of a job with those of its `recipe` where it gives none of its own."""
    name = data.get("recipe") if isinstance(data, Mapping) else None
    known = RECIPES.get(name) if isinstance(name, str) else None
    return {**known, **data} if known is not None else data
