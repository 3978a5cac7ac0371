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


class Torch(Stone):
    def wants_gpu(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("cluster", "plain", "on_gpu"),
    [
        (Cluster(cpus=4), Needs(1, 0), Needs(1, 0)),
        (Cluster(cpus=4, gpus=2), Needs(1, 0), Needs(2, 1)),
        (Cluster(cpus=64, gpus=2), Needs(1, 0), Needs(4, 1)),
        (Cluster(cpus=1, gpus=2), Needs(1, 0), Needs(0.5, 1)),
        (Cluster(cpus=0, gpus=2), Needs(0, 0), Needs(0, 1)),
        (Cluster(cpus=0), Needs(1, 0), Needs(1, 0)),
    ],
)
def test_a_job_asks_for_a_cpu_and_for_a_gpu_only_if_it_works_there(cluster, plain, on_gpu):
    assert Stone().needs(cluster) == plain
    assert Torch().needs(cluster) == on_gpu


def test_which_kinds_hold_a_gpu():
    """Those that read, split and copy files hold none, even where a GPU is free."""
    cluster = Cluster(cpus=8, gpus=8)
    fields = {
        "load_dataset": {"source": "digits"},
        "import_teacher": {"path": "x.pkl"},
        "import_features": {"path": "x.onnx"},
        "inception_features": {"weights": "x.pth"},
        "analytic_flow": {"data": "d"},
        "partition": {"data": "d", "count": 2},
        "train_features": {"data": "d"},
        "evaluate": {"model": "m", "data": "d", "features": "f"},
    }
    gpus = {
        kind: load_kind(kind).model_validate(one).needs(cluster).gpus
        for kind, one in fields.items()
    }
    assert {kind for kind, held in gpus.items() if held} == {"train_features", "evaluate"}
    of_features = {"data": "d", "features": "f", "count": 2, "method": "kmeans"}
    assert load_kind("partition").model_validate(of_features).needs(cluster).gpus == 1


def test_a_job_says_little_unless_its_kind_does():
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
