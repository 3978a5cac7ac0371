"""A store with measured students of two sizes and three seeds."""

import pytest
from builders import IMAGE, RUN, dataset, feature_net, pair_set
from measured import FIDS, put, put_report, put_run, put_student

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.storage.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    """One data set (no hours), features and pairs (1 hour each), six students (2 hours each)."""
    made = Store(str(tmp_path / "store"))
    data = dataset()
    put(made, "load_dataset-d0", data, {"source": "digits"}, {})
    features = feature_net()
    put(made, "train_features-f0", features, {"data": "data"}, {"data": "load_dataset-d0"}, 1.0)
    teacher = Flow(source="data", image=IMAGE, dataset=data)
    put(made, "analytic_flow-t0", teacher, {"data": "data"}, {"data": "load_dataset-d0"})
    pairs = pair_set()
    spec = {"flow": "teacher", "count": 100, "seed": 0}
    put(made, "generate_pairs-p0-100", pairs, spec, {"teacher": "analytic_flow-t0"}, 1.0)
    jobs = {"data": "load_dataset-d0"}
    for width, fids in FIDS.items():
        for seed, fid in enumerate(fids):
            model = put_student(made, f"w{width}s{seed}", width=width, seed=seed)
            one = put_report(made, f"w{width}s{seed}", model, fid=fid, parameters=100 * width)
            jobs[f"students.width={width}.seed={seed}.quality"] = one
    put_run(made, RUN, jobs, {})
    return made
