import pickle

import pytest
from pydantic import ValidationError

from slimctl.jobs.base.artifacts import Dataset, Flow
from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.base.registry import kind_names, load_kind
from slimctl.jobs.base.spec import JobSpec, SeededJobSpec, output_type
from slimctl.jobs.kinds.train_flow import TrainFlow


class Stone(JobSpec):
    weight: float = 1.0

    def run(self, context: JobContext) -> Dataset:
        raise NotImplementedError


class Nothing(JobSpec):
    def run(self, context: JobContext) -> int:  # type: ignore[override]
        raise NotImplementedError


def test_what_a_kind_makes_is_what_run_returns():
    assert output_type(Stone) is Dataset
    assert output_type(TrainFlow) is Flow


def test_a_kind_must_make_a_handle():
    with pytest.raises(TypeError, match="must declare the handle type"):
        output_type(Nothing)


def test_a_job_asks_for_one_device_unless_it_says_otherwise():
    assert Stone().needs(Cluster(cpus=4)) == Needs(cpus=1, gpus=0)
    assert Stone().needs(Cluster(cpus=4, gpus=2)) == Needs(cpus=0, gpus=1)
    assert Stone.placement == "shared"
    assert Stone().fingerprint() == {}
    assert Stone().expect({}) == Facts()
    assert Stone().preflight() is None


@pytest.mark.parametrize("fields", [{"weight": float("nan")}, {"wait": 1}, {"weight": "heavy"}])
def test_specs_refuse_what_they_do_not_know(fields):
    with pytest.raises(ValidationError):
        Stone.model_validate(fields)


def test_specs_are_frozen_and_travel():
    spec = Stone(weight=2)
    with pytest.raises(ValidationError, match="frozen"):
        spec.weight = 3
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize(
    ("seed", "good"), [(0, True), (2**63 - 1, True), (-1, False), (2**63, False)]
)
def test_seeds_are_those_that_every_generator_takes(seed, good):
    class Draw(SeededJobSpec):
        def run(self, context: JobContext) -> Dataset:
            raise NotImplementedError

    if good:
        assert Draw(seed=seed).seed == seed
    else:
        with pytest.raises(ValidationError):
            Draw(seed=seed)


@pytest.mark.parametrize("kind", kind_names())
def test_only_kinds_that_draw_have_a_seed(kind):
    cls = load_kind(kind)
    assert ("seed" in cls.model_fields) == issubclass(cls, SeededJobSpec)
