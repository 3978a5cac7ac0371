import json

import pytest
from pydantic import ValidationError

from jobs.base.artifacts import (
    HANDLES,
    Dataset,
    FeatureNet,
    Flow,
    Generator,
    Handle,
    PairSet,
    QualityReport,
    ShardFile,
    StepPolicy,
    StepReport,
    StepRow,
)
from models.spec import ImageShape

IMAGE = ImageShape(channels=3, size=32, classes=2)
DATA = Dataset(
    id="load_dataset-1",
    image=IMAGE,
    count=5,
    class_names=("cat", "dog"),
    label_counts=(2, 3),
    flip_valid=True,
)
ROW = StepRow(
    name="policy", group="rk23", cost=18.0, mean_cost=18.5, error=1e-3, error_p90=None,
    bad_share=0.1, mean_return=-0.5, return_low=-0.6, return_high=-0.4,
)  # fmt: skip
EXAMPLES = [
    DATA,
    FeatureNet(id="f", image=IMAGE, network={"kind": "classifier"}, dimensions=64, accuracy=2 / 3),
    Flow(id="a", source="data", image=IMAGE, dataset=DATA, bandwidth=0.1, label_counts=(2, 3)),
    Flow(
        id="b", source="network", image=IMAGE, network={"kind": "adm", "x": [1, 2]}, t_start=1 / 81
    ),
    Generator(id="g", image=IMAGE, network={"kind": "adm"}, parameters=7, flip_valid=True),
    PairSet(
        id="p-5",
        image=IMAGE,
        count=5,
        shard_size=4,
        seed=2**63 - 1,
        generator_version=1,
        nfe=35.25,
        shards=(ShardFile(path="pairs/p/0", size=3, sha256="ab"),) * 2,
    ),
    StepPolicy(
        id="sp",
        problem={"kind": "three_body"},
        problem_kind="three_body",
        hidden=(64, 64),
        observation_size=8,
        training_seeds=(1, 2),
        validation=(-1.5, -1.6),
        best_at=(10, 20),
        chosen=0,
        best_return=-1.5,
        decisions=100,
    ),
    StepReport(
        id="sr",
        policy="sp",
        problem_kind="flow",
        episodes=5,
        bad_error=2e-3,
        rows=(ROW,),
        policy_return=-1.0,
        best_fixed="h 0.1",
        best_fixed_return=-1.1,
        policy_cost=20.0,
        policy_bad_share=0.1,
        pictures=("pareto.png",),
    ),
    QualityReport(
        id="q",
        model="g",
        model_type="Generator",
        solver="one step",
        fid=1e-12,
        fid_real=1 / 3,
        kid=-1e-4,
        kid_low=-2e-4,
        kid_high=3e-4,
        precision=0.5,
        recall=0.25,
        nfe=1.0,
        samples=5000,
        features="f",
        reference="load_dataset-1",
        parameters=10,
        macs=2**40,
        latency_ms=0.5,
        latency_p90_ms=0.75,
        device="cpu",
        threads=1,
        straightness=None,
        nearest_rms=0.1,
        nearest_rms_real=0.2,
    ),
]


@pytest.mark.parametrize("handle", EXAMPLES, ids=lambda handle: handle.id)
def test_handles_round_trip_through_json(handle):
    cls = HANDLES[type(handle).__name__]
    assert cls.model_validate_json(handle.model_dump_json()) == handle
    assert cls.model_validate(json.loads(json.dumps(handle.model_dump(mode="json")))) == handle


def test_every_handle_type_has_an_example_and_a_name_for_the_manifest():
    assert {type(handle) for handle in EXAMPLES} == set(HANDLES.values())
    built_in = {cls for cls in Handle.__subclasses__() if cls.__module__.startswith("jobs.")}
    assert built_in == set(HANDLES.values())


@pytest.mark.parametrize("handle", EXAMPLES, ids=lambda handle: handle.id)
def test_handles_are_frozen_and_know_all_their_fields(handle):
    with pytest.raises(ValidationError, match="frozen"):
        handle.id = "other"
    with pytest.raises(ValidationError, match="Extra inputs"):
        type(handle).model_validate({**handle.model_dump(), "surprise": 1})


def test_a_measurement_is_a_number():
    fields = EXAMPLES[-1].model_dump()
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValidationError, match="finite number"):
            QualityReport.model_validate({**fields, "fid": value})
