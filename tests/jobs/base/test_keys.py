import hashlib
import json
import shutil
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from slimctl.jobs.base.artifacts import Flow, PairSet
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.keys import artifact_id, canonical_json, content_of, job_key
from slimctl.jobs.base.refs import Ref, iter_refs
from slimctl.jobs.base.registry import kind_names, load_kind
from slimctl.jobs.base.spec import BY_CONTENT, GROWS, SPEED_ONLY, SeededJobSpec
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.kinds.load_dataset import LoadDataset
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.models.networks.registry import AnyNetworkSpec
from slimctl.models.spec import Spec

NETWORK = {"kind": "song_unet", "channels": 8}


class Part(Spec):
    depth: int = 1
    patience_s: Annotated[float, SPEED_ONLY] = 1.0


class Build(SeededJobSpec):
    """A job with a field of every sort."""

    flow: Ref[Flow]
    others: tuple[float, ...] = ()
    table: dict[str, float] = Field(default_factory=dict)
    part: Part = Part()
    network: AnyNetworkSpec | None = None
    wide: bool = False
    rate: float | int = 1
    mode: Literal["a", "b"] = "a"
    count: Annotated[int, GROWS] = 1
    source: Annotated[str, BY_CONTENT] = ""
    workers: Annotated[int, Field(ge=1), SPEED_ONLY] = 1
    content: Annotated[str, SPEED_ONLY] = ""

    def run(self, context: JobContext) -> PairSet:
        raise NotImplementedError

    def fingerprint(self):
        return {"source": self.content}


@pytest.fixture
def key(install_kinds):
    install_kinds(build=Build)

    def make(**fields):
        flow = fields.pop("flow_id", "flow-1")
        return job_key(Build(flow=Ref("teacher"), **fields), {"teacher": flow})

    return make


@pytest.mark.parametrize(
    "fields",
    [
        {"count": 2},
        {"source": "/elsewhere/data.npz"},
        {"workers": 7},
        {"part": Part(patience_s=9.0)},
    ],
)
def test_marked_fields_stay_out(key, fields):
    assert key(**fields) == key()


@pytest.mark.parametrize(
    "fields",
    [
        {"flow_id": "flow-2"},
        {"seed": 0},
        {"seed": 1},
        {"others": (1.0,)},
        {"table": {"a": 1.0}},
        {"part": Part(depth=2)},
        {"network": NETWORK},
        {"network": NETWORK | {"channels": 9}},
        {"wide": True},
        {"rate": 2},
        {"rate": 1.5},
        {"mode": "b"},
        {"content": "another sha"},
    ],
)
def test_everything_else_enters(key, fields):
    assert key(**fields) != key()


def test_one_and_one_point_nought_are_one_key(key):
    assert key(rate=1) == key(rate=1.0)
    assert key(others=(2,)) == key(others=(2.0,))
    assert key(table={"a": -0.0}) == key(table={"a": 0})
    assert key(rate=1e300) == key(rate=10.0**300)
    assert key(rate=2**60) != key(rate=2**60 + 1)
    assert key(rate=0.1) != key(rate=0.1 + 2**-56)


def test_the_name_of_a_job_is_not_its_content(install_kinds):
    install_kinds(build=Build)
    first = job_key(Build(flow=Ref("teacher")), {"teacher": "flow-1"})
    renamed = job_key(Build(flow=Ref("big")), {"big": "flow-1", "other": "flow-2"})
    assert first == renamed


def test_a_default_that_is_spelt_out_is_the_same(key):
    assert key(mode="a", part={"depth": 1}, table={}) == key()
    assert key(network=NETWORK) == key(network=NETWORK | {"blocks": 2})


def test_kind_and_version_enter(install_kinds, monkeypatch):
    spec = Build(flow=Ref("t"))
    inputs = {"t": "flow-1"}
    install_kinds(build=Build)
    first = job_key(spec, inputs)
    monkeypatch.setattr(Build, "version", 2)
    second = job_key(spec, inputs)
    install_kinds(rebuild=Build)
    assert len({first, second, job_key(spec, inputs)}) == 3


def test_a_key_is_the_checksum_of_what_a_result_depends_on(key):
    """Written out by hand: another form of it would make every store anew."""
    text = (
        '{"fields":{"flow":{"input":"flow-1"},"mode":"a","network":null,"others":[1,2.5],'
        '"part":{"depth":1},"rate":1,"seed":3,"table":{},"wide":false},'
        '"files":{"source":""},"kind":"build","version":1}'
    )
    assert key(seed=3, others=(1, 2.5)) == hashlib.sha256(text.encode()).hexdigest()[:24]


def test_a_known_fingerprint_is_not_taken_again(install_kinds, monkeypatch):
    install_kinds(build=Build)
    spec = Build(flow=Ref("t"), content="sha")
    first = job_key(spec, {"t": "f"})
    monkeypatch.setattr(Build, "fingerprint", lambda self: pytest.fail("read again"))
    assert job_key(spec, {"t": "f"}, {"source": "sha"}) == first


def test_the_count_stands_in_the_id_of_pairs():
    spec = GeneratePairs(flow=Ref("t"), count=20_000)
    more = spec.model_copy(update={"count": 50_000})
    inputs = {"t": "train_flow-1"}
    assert job_key(spec, inputs) == job_key(more, inputs)
    ids = [artifact_id(each, job_key(each, inputs)) for each in (spec, more)]
    series = f"generate_pairs-{job_key(spec, inputs)}"
    assert ids == [f"{series}-20000", f"{series}-50000"]
    assert artifact_id(TrainFlow(data=Ref("d"), network=NETWORK, steps=1), "ab") == "train_flow-ab"


def test_what_changes_pairs_changes_their_series():
    spec = GeneratePairs(flow=Ref("t"), count=1, seed=0)
    inputs = {"t": "train_flow-1"}
    changes = [
        {"seed": 1},
        {"shard_size": 500},
        {"batch_size": 100},
        {"solver": {"kind": "rk45", "tolerance": 1e-3}},
    ]
    keys = {job_key(GeneratePairs(**{**spec.model_dump(), **c}), inputs) for c in changes}
    assert len(keys | {job_key(spec, inputs)}) == 5
    assert job_key(spec.model_copy(update={"actors": 3}), inputs) == job_key(spec, inputs)


def test_data_enters_by_content_and_not_by_path(tmp_path):
    data = tmp_path / "data.npz"
    data.write_bytes(b"some images")
    key = job_key(LoadDataset(source=str(data)), {})
    elsewhere = tmp_path / "elsewhere" / "renamed.npz"
    elsewhere.parent.mkdir()
    shutil.copy(data, elsewhere)
    assert job_key(LoadDataset(source=str(elsewhere)), {}) == key
    data.write_bytes(b"some imageS")
    assert job_key(LoadDataset(source=str(data)), {}) != key
    assert job_key(LoadDataset(source=str(elsewhere), size=4), {}) != key


def test_speed_only_fields_of_the_kinds():
    """The full list: a new one has to be thought about here."""
    marked = {
        (kind, name)
        for kind in kind_names()
        for name, field in load_kind(kind).model_fields.items()
        if SPEED_ONLY in field.metadata
    }
    training = {
        "workers",
        "threads",
        "shared",
        "checkpoint_s",
        "log_every",
        "micro_batch",
        "hang_s",
        "checkpoint_activations",
        "shard",
    }
    kinds = (
        "train_flow",
        "anneal_reflow",
        "distill",
        "match_teacher",
        "match_distribution",
        "mean_flow",
        "consistency",
        "train_autoencoder",
    )
    trained = {(kind, name) for kind in kinds for name in training}
    scores = ("data", "features", "score_every", "score_samples")
    watched = {(kind, name) for kind in ("anneal_reflow", "distill") for name in scores}
    others = {
        ("distill", "recipe"),  # what it means is in other fields
        ("encode_latents", "actors"),
        ("encode_prompts", "actors"),
        ("evaluate", "actors"),
        ("generate_pairs", "actors"),
        ("load_dataset", "actors"),
        ("sweep", "parallel"),
        ("train_step_policy", "checkpoint_s"),
    }
    every = {(kind, "timeout") for kind in kind_names()}
    assert marked == trained | watched | others | every


def test_speed_only_fields_do_not_change_the_key_of_a_training():
    fields = {"data": "d", "network": NETWORK, "steps": 5}
    base = job_key(TrainFlow(**fields), {"d": "x"})
    quick = {"workers": 2, "threads": 3, "checkpoint_s": 1.0, "log_every": 7}
    assert job_key(TrainFlow(**fields, **quick), {"d": "x"}) == base
    assert job_key(TrainFlow(**fields, batch_size=64), {"d": "x"}) != base


def test_optional_inputs_enter_where_they_are():
    fields = {"pairs": "p", "start": "s", "steps": 1}
    inputs = {"p": "1", "s": "2", "g": "3"}
    without = Distill(**fields, two_step_weight=0)
    guided = Distill(**fields, two_step_weight=0, guide="g")
    assert job_key(without, inputs) != job_key(guided, inputs)
    assert [name for name, _ in iter_refs(without)] == ["pairs", "start"]


def test_evaluations_of_two_models_differ():
    spec = Evaluate(model="m", data="d", features="f")
    ids = {"d": "1", "f": "2"}
    assert job_key(spec, {**ids, "m": "3"}) != job_key(spec, {**ids, "m": "4"})


def test_content_is_plain_data():
    spec = GeneratePairs(flow=Ref("t"), count=3, seed=1)
    content = content_of(spec, {"t": "train_flow-1"})
    assert json.loads(canonical_json(content)) == content
    assert content["flow"] == {"input": "train_flow-1"}
    expected = {"kind": "rk45", "tolerance": 1e-4, "max_evaluations": 1000, "norm": "sample"}
    assert content["solver"] == expected
    assert "count" not in content


@settings(max_examples=50, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_canonical_json_has_one_form(value):
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    shuffled = dict(reversed(value.items())) if isinstance(value, dict) else value
    assert canonical_json(shuffled) == text


def test_nan_has_no_key():
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def test_dataset_of_digits_has_a_fixed_fingerprint():
    assert LoadDataset(source="digits").fingerprint() == {"source": "scikit-learn digits"}
