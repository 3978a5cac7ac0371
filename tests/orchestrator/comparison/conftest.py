"""A store with measured students of two sizes and three seeds."""

import pytest
from measured import FIDS, IMAGE, RUN, put, put_report, put_run, put_student

from slimctl.jobs.base.artifacts import Dataset, FeatureNet, Flow, PairSet
from slimctl.jobs.storage.store import Store


@pytest.fixture
def store(tmp_path) -> Store:
    """One data set (no hours), features and pairs (1 hour each), six students (2 hours each)."""
    made = Store(str(tmp_path / "store"))
    data = Dataset(image=IMAGE, count=5, flip_valid=False)
    put(made, "load_dataset-d0", data, {"source": "digits"}, {})
    features = FeatureNet(image=IMAGE, network={}, dimensions=2, accuracy=1.0)
    put(made, "train_features-f0", features, {"data": "data"}, {"data": "load_dataset-d0"}, 1.0)
    teacher = Flow(source="data", image=IMAGE, dataset=data)
    put(made, "analytic_flow-t0", teacher, {"data": "data"}, {"data": "load_dataset-d0"})
    pairs = PairSet(image=IMAGE, count=100, shard_size=100, seed=0, generator_version=1, nfe=1.0)
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
