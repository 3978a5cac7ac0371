import json

import pytest
from pydantic import ValidationError

from slimctl.jobs.base.artifacts import (
    HANDLES,
    Autoencoder,
    Dataset,
    EmbeddedPrompts,
    EncoderFiles,
    FeatureNet,
    Fleet,
    Flow,
    Generator,
    Handle,
    LatentSet,
    PairSet,
    Partition,
    PromptSet,
    QualityReport,
    ShardFile,
    StepGrid,
    StepPolicy,
    StepReport,
    StepRow,
    SubsetQuality,
    SweepReport,
    Trial,
)
from slimctl.jobs.base.facts import Facts
from slimctl.models.solvers.spec import GridSpec
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=3, size=32, classes=2)
DATA = Dataset(
    id="load_dataset-1",
    image=IMAGE,
    count=5,
    class_names=("cat", "dog"),
    label_counts=(2, 3),
    flip_valid=True,
)
PROMPTS = PromptSet(id="load_prompts-1", count=5, classes=2, source="a.txt")
VAE = {"model": "AutoencoderKL", "config": {"latent_channels": 4, "block_out_channels": [4, 8]}}
AUTOENCODER = Autoencoder(id="ae", image=IMAGE, network=VAE, parameters=9, weights="ab")
EXAMPLES = [
    DATA,
    FeatureNet(id="f", image=IMAGE, network={"kind": "classifier"}, dimensions=64, accuracy=2 / 3),
    Flow(id="a", source="data", image=IMAGE, dataset=DATA, bandwidth=0.1, label_counts=(2, 3)),
    Flow(
        id="b", source="network", image=IMAGE, network={"kind": "adm", "x": [1, 2]}, t_start=1 / 81
    ),
    Generator(id="g", image=IMAGE, network={"kind": "adm"}, parameters=7, flip_valid=True),
    AUTOENCODER,
    LatentSet(
        id="ls",
        image=IMAGE,
        count=5,
        shard_size=4,
        dataset=DATA,
        autoencoder=AUTOENCODER,
        shards=(ShardFile(path="pairs/ls/0", size=3, sha256="ab"),) * 2,
    ),
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
    StepGrid(
        id="s",
        image=IMAGE,
        solver=GridSpec(times=(0.0, 0.5), weights=((0.5,), (0.25, 0.75))),
        flow="b",
        nfe=2,
        error_median=1e-3,
        error_p90=2e-3,
        error_p99=3e-3,
        share_within_rounding=0.95,
        samples=64,
        exact_nfe=50.5,
    ),
    StepPolicy(
        id="sp",
        problem={"kind": "three_body", "actions": [1e-4, 1e-1]},
        problem_kind="three_body",
        hidden=(128, 128),
        observation_size=8,
        training_seeds=(0, 1),
        validation=(-1.5, -1.6),
        best_at=(1000, 2000),
        chosen=0,
        best_return=-1.5,
        decisions=5000,
    ),
    StepReport(
        id="sr",
        policy="sp",
        problem_kind="flow",
        episodes=200,
        bad_error=2.3e-3,
        rows=(
            StepRow(
                name="rk45 1e-3",
                group="flow",
                cost=20.0,
                mean_cost=21.5,
                error=None,
                error_p90=None,
                bad_share=0.1,
                mean_return=None,
            ),
        ),
        policy_return=-1.5,
        best_fixed="mu 0.01",
        best_fixed_return=-1.6,
        policy_cost=20.0,
        policy_bad_share=0.05,
    ),
    SweepReport(
        id="w",
        objectives=("q.fid",),
        trials=(Trial(values={"a": [1, {"b": None}]}, state="done", metrics={"q.fid": 0.5}),),
        chosen=0,
        front=(0,),
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
        parts=(
            SubsetQuality(
                labels=(0, 2), samples=9, real=8, fid=1.5, fid_real=0.5, precision=None, recall=0.5
            ),
        ),
    ),
    PROMPTS,
    EmbeddedPrompts(
        id="encode_prompts-1",
        prompts=PROMPTS,
        encoder=EncoderFiles(
            pipeline="sentence",
            pixels=0,
            length=8,
            root="prompts/x/encoder",
            files=(ShardFile(path="prompts/x/encoder/config.json", size=3, sha256="ab"),),
        ),
        tokens=8,
        width=16,
        pooled=16,
        masked=True,
        cut=0,
        shard_size=4,
        shards=(ShardFile(path="prompts/x/0", size=3, sha256="ab"),),
    ),
    Partition(id="partition-1", subsets=((0, 2), (1,)), label_counts=(3, 4, 5), method="kmeans"),
    Fleet(
        id="assemble_fleet-1",
        image=IMAGE,
        members=(
            Generator(id="a", image=IMAGE, network={"kind": "mlp"}, parameters=3, part=0),
            Generator(id="b", image=IMAGE, network={"kind": "mlp"}, parameters=4, part=1),
        ),
        subsets=((0, 2), (1,)),
        partition="partition-1",
        label_counts=(3, 4, 5),
        parameters=4,
        parameters_total=7,
    ),
]


@pytest.mark.parametrize("handle", EXAMPLES, ids=lambda handle: handle.id)
def test_handles_round_trip_through_json(handle):
    cls = HANDLES[type(handle).__name__]
    assert cls.model_validate_json(handle.model_dump_json()) == handle
    assert cls.model_validate(json.loads(json.dumps(handle.model_dump(mode="json")))) == handle


def test_members_of_a_fleet_keep_their_type():
    flow = Flow(id="f", source="network", image=IMAGE, network={}, part=0)
    fleet = EXAMPLES[-1].model_copy(update={"members": (flow,)})
    assert type(Fleet.model_validate_json(fleet.model_dump_json()).members[0]) is Flow
    assert type(EXAMPLES[-1].members[0]) is Generator


def test_every_handle_type_has_an_example_and_a_name_for_the_manifest():
    assert {type(handle) for handle in EXAMPLES} == set(HANDLES.values())
    built_in = {
        cls for cls in Handle.__subclasses__() if cls.__module__.startswith("slimctl.jobs.")
    }
    assert built_in == set(HANDLES.values())


@pytest.mark.parametrize("handle", EXAMPLES, ids=lambda handle: handle.id)
def test_handles_are_frozen_and_know_all_their_fields(handle):
    with pytest.raises(ValidationError, match="frozen"):
        handle.id = "other"
    with pytest.raises(ValidationError, match=r"Extra inputs|valid number"):
        type(handle).model_validate({**handle.model_dump(), "surprise": "none"})


def test_a_measurement_is_a_number():
    fields = EXAMPLES[-1].model_dump()
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValidationError, match="finite number"):
            QualityReport.model_validate({**fields, "fid": value})


@pytest.mark.parametrize("handle", EXAMPLES, ids=lambda handle: handle.id)
def test_a_handle_says_its_facts(handle):
    facts = handle.facts()
    assert facts.made == type(handle).__name__
    assert facts.image in (None, getattr(handle, "image", None))
    assert facts.flip_valid in (None, getattr(handle, "flip_valid", None))


def test_what_jobs_are_checked_against():
    assert DATA.facts() == Facts(
        image=IMAGE, count=5, flip_valid=True, classes_seen=2, label_counts=(2, 3), made="Dataset"
    )
    closed, network = EXAMPLES[2].facts(), EXAMPLES[3].facts()
    assert (closed.closed_form, network.closed_form) == (True, False)
    assert Partition(id="p", subsets=((0,), (1,)), method="random").facts().parts == 2
