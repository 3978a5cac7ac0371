"""The settings that a grid or a random search tries, as a fixed function of the spec."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from slimctl.jobs.base.seeds import derive_seed
from slimctl.jobs.search.spec import Dimension


def grid(space: Mapping[str, Dimension]) -> list[dict[str, Any]]:
    """Every combination of the choices, the last variable changing fastest."""
    columns = [one.choice or () for one in space.values()]
    return [dict(zip(space, row, strict=True)) for row in itertools.product(*columns)]


def random(space: Mapping[str, Dimension], count: int, seed: int) -> list[dict[str, Any]]:
    """Independent draws; draw i depends on the seed and i alone."""
    return [
        {name: _draw(one, derive_seed(seed, "sweep", number, name)) for name, one in space.items()}
        for number in range(count)
    ]


def _draw(dimension: Dimension, seed: int) -> Any:
    generator = np.random.default_rng(seed)
    if dimension.choice is not None:
        return dimension.choice[int(generator.integers(len(dimension.choice)))]
    low, high = dimension.bounds()
    if dimension.randint:
        return int(generator.integers(int(low), int(high) + 1))
    if dimension.loguniform:
        return math.exp(float(generator.uniform(math.log(low), math.log(high))))
    return float(generator.uniform(low, high))
