import math

import pytest

from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.training.loop import learning_rate


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({"warmup": 0, "decay": "constant"}, [1.0] * 8),
        ({"warmup": 4, "decay": "constant"}, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ({"warmup": 20, "decay": "constant"}, [(k + 1) / 20 for k in range(8)]),
        (
            {"warmup": 0, "decay": "cosine"},
            [math.cos(math.pi * k / 16) ** 2 for k in range(8)],
        ),
        (
            {"warmup": 4, "decay": "cosine"},
            [0.25, 0.5, 0.75, 1] + [math.cos(math.pi * k / 8) ** 2 for k in range(4)],
        ),
    ],
)
def test_the_learning_rate_has_a_closed_form(changes, rates):
    fields = {"data": "d", "network": {"kind": "song_unet", "channels": 4}, "steps": 8}
    spec = TrainFlow.model_validate(fields | {"learning_rate": 0.5} | changes)
    assert [learning_rate(spec, step) for step in range(8)] == pytest.approx(
        [0.5 * rate for rate in rates]
    )
