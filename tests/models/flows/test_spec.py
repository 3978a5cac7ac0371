import itertools
import math
import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from slimctl.models.flows.spec import (
    AnnealingSchedule,
    ConstantAnnealing,
    CosineAnnealing,
    ExponentialAnnealing,
    LinearAnnealing,
    TimeDensity,
)


def test_specs_are_read_without_torch():
    code = (
        "import sys, models.spec, models.flows.spec, models.solvers.spec; "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "schedule",
    [
        LinearAnnealing(length=1000),
        CosineAnnealing(length=1000),
        ExponentialAnnealing(length=1000),
    ],
)
def test_schedules_fall_from_one(schedule):
    betas = [schedule.beta(step) for step in range(0, 3001, 50)]
    assert betas[0] == 1.0
    assert all(0.0 <= later <= earlier for earlier, later in itertools.pairwise(betas))
    if schedule.kind != "exponential":
        assert schedule.beta(1000) == 0.0
        assert schedule.beta(999) > 0.0


def test_schedules_are_those_of_the_paper():
    big_k = 50_000
    for k in (0, 10_000, 49_999, 120_000, 400_000):
        assert LinearAnnealing(length=6 * big_k).beta(k) == 1 - min(1, k / (6 * big_k))
        cosine = (1 + math.cos(math.pi * min(1, k / (2 * big_k)))) / 2
        assert CosineAnnealing(length=2 * big_k).beta(k) == cosine
        assert ExponentialAnnealing(length=big_k).beta(k) == math.exp(-k / big_k)
        assert ConstantAnnealing().beta(k) == 0.0
    assert ConstantAnnealing(value=0.3).beta(5) == 0.3


def test_unions_are_reported_apart_by_kind():
    for union, written in [
        (TimeDensity, {"kind": "u_shaped", "a": 4.0}),
        (TimeDensity, {"kind": "uniform", "low": 0.001, "high": 1.0}),
        (AnnealingSchedule, {"kind": "linear", "length": 10}),
        (AnnealingSchedule, {"kind": "constant", "value": 0.0}),
    ]:
        assert TypeAdapter(union).validate_python(written).model_dump() == written
    with pytest.raises(ValidationError, match="low must be below high"):
        TypeAdapter(TimeDensity).validate_python({"kind": "uniform", "low": 0.9, "high": 0.2})
