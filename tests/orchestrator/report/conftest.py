"""A store with data, features and pairs, and no run."""

import pytest
from builders import IMAGE, dataset, feature_net, pair_set
from measured import put

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.storage.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    """What students are made from."""
    made = Store(str(tmp_path / "store"))
    for name in ("d0", "other"):
        data = dataset()
        put(made, f"load_dataset-{name}", data, {"source": "digits"}, {})
    features = feature_net()
    put(made, "train_features-f0", features, {"data": "data"}, {"data": "load_dataset-d0"}, 1.0)
    teacher = Flow(source="data", image=IMAGE, dataset=data)
    put(made, "analytic_flow-t0", teacher, {"data": "data"}, {"data": "load_dataset-d0"})
    pairs = pair_set()
    spec = {"flow": "teacher", "count": 100, "seed": 0}
    put(made, "generate_pairs-p0-100", pairs, spec, {"teacher": "analytic_flow-t0"}, 1.0)
    return made
