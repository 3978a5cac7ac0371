import pickle
import sys
from types import SimpleNamespace

import pytest
import torch
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file

from slimctl.jobs.base.cluster import Needs
from slimctl.jobs.base.context import Handles
from slimctl.jobs.base.errors import (
    DamagedArtifact,
    JobFailed,
    SlimError,
    TrainingDiverged,
    UserError,
    WorkLost,
)
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.objectives.train_flow import FlowMatching
from slimctl.jobs.training import ray_train
from slimctl.jobs.training.checkpoint import load_checkpoint
from slimctl.jobs.training.ray_train import TrainTask, initial_network, train_on_ray, train_worker
from slimctl.models.metrics.cost import count_parameters
from slimctl.models.networks.registry import parse_network
from slimctl.models.spec import ImageShape

pytestmark = pytest.mark.usefixtures("written_at_once")
NETWORK = {
    "kind": "song_unet",
    "channels": 4,
    "channel_multipliers": [1],
    "blocks": 1,
    "attention_resolutions": [],
    "middle_attention": False,
    "dropout": 0.2,
}


def settings(**changes):
    fields = {"data": "d", "network": NETWORK, "steps": 12, "batch_size": 4, "seed": 1, "warmup": 2}
    fields |= {"learning_rate": 1e-3, "shared": False}
    return TrainFlow.model_validate(fields | changes)


@pytest.fixture
def make_task(store, recorder, make_dataset):
    def make(name="train_flow-1", initial=None, spec=None):
        data = make_dataset(count=10)
        spec = spec or settings()
        objective = FlowMatching(spec, Handles(store, name, {"d": data}))
        return TrainTask(
            job="teacher",
            artifact_id=name,
            spec=spec,
            network=spec.network,
            image=data.image,
            objective=objective,
            initial=initial,
            store=store,
            reporter=recorder,
            threads=1,
        )

    return make


@pytest.fixture
def context(make_context):
    return make_context("train_flow-1", job="teacher")


@pytest.fixture
def train(context, make_task, monkeypatch):
    """`train(fit)` calls `train_on_ray` with something else than Ray Train."""

    def call(fit=None, **changes):
        task = make_task(**changes)
        monkeypatch.setattr(
            ray_train, "_fit", lambda given, *_: (fit or ray_train.train_worker)(given)
        )
        return train_on_ray(
            context, task.spec, task.network, task.image, task.objective, task.initial
        )

    return call


def tensors(store, name):
    return load_checkpoint(store.work(name)).tensors


def test_a_network_with_dropout_resumes_bit_for_bit(store, make_task, monkeypatch):
    train_worker(make_task("train_flow-whole"))
    short = make_task("train_flow-parts", spec=settings(checkpoint_s=1e-9))
    loss = FlowMatching.loss

    def crashing(objective, network, step, *part):
        if step == 7:
            raise SystemExit
        return loss(objective, network, step, *part)

    monkeypatch.setattr(FlowMatching, "loss", crashing)
    with pytest.raises(SystemExit):
        train_worker(short)
    monkeypatch.undo()
    assert load_checkpoint(store.work("train_flow-parts")).step == 7
    train_worker(pickle.loads(pickle.dumps(make_task("train_flow-parts"))))
    whole, parts = tensors(store, "train_flow-whole"), tensors(store, "train_flow-parts")
    assert set(whole) == set(parts)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_the_first_weights_are_a_function_of_the_seed(make_task):
    torch.manual_seed(1)
    first = initial_network(make_task())
    torch.manual_seed(2)
    second = initial_network(make_task())
    other = initial_network(make_task(spec=settings(seed=2)))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, second.state_dict()[name])
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert any(not torch.equal(weight, unlike) for weight, unlike in pairs)


def test_a_student_starts_from_a_flows_average(store, make_task, make_model):
    flow = make_model()
    network = initial_network(make_task(initial=flow))
    weights = load_file(store.file(flow, flow.file))
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, weights[name])


def test_the_result_is_the_average_of_the_last_checkpoint(store, context, train):
    trained = train()
    final = load_checkpoint(context.work)
    assert final.step == 12
    network = parse_network(NETWORK).build(ImageShape(channels=1, size=4))
    network.load_state_dict(trained.weights)
    assert trained.parameters == count_parameters(network)
    assert trained.seconds == final.seconds
    assert all(torch.equal(v, final.tensors[f"ema.{n}"]) for n, v in trained.weights.items())
    assert context.device_s == final.seconds
    assert context.engine["device"] == "cpu"
    assert (context.engine["workers"], context.engine["threads"]) == (1, 1)


def test_buffers_are_no_parameters(train):
    fourier = settings(network=NETWORK | {"embedding": "fourier"})
    trained = train(spec=fourier)
    names = sum(value.numel() for value in trained.weights.values())
    assert trained.parameters == names - 2  # the frequencies


def test_a_lost_training_is_work_lost(train):
    with pytest.raises(WorkLost, match="without its final checkpoint"):
        train(lambda task: None)
    with pytest.raises(WorkLost):
        train(lambda task: train_worker(TrainTask(**{**vars(task), "spec": settings(steps=3)})))


@pytest.fixture
def ended_by(context, make_task, monkeypatch):
    """`ended_by(raised)`: what a training raises whose Ray Train ended so."""

    def call(raised):
        monkeypatch.setattr(TorchTrainer, "fit", raising(raised))
        monkeypatch.setattr(ray_train, "free_placement", lambda artifact: 0)
        with pytest.raises(SlimError) as error:
            ray_train._fit(make_task(), Needs(2, 0, parts=2), use_cuda=False)
        return error.value

    return call


def raising(error):
    def raises(*_):
        raise error

    return raises


@pytest.mark.parametrize("cls", [TrainingDiverged, UserError, DamagedArtifact, JobFailed, WorkLost])
def test_an_error_of_any_worker_is_raised_by_the_driver(ended_by, cls):
    error = cls("flow-1", "it went wrong", "do it right")
    caused = WorkLost("job 'teacher'", "RuntimeError: Connection closed by peer")
    failures = {0: caused, 1: pickle.loads(pickle.dumps(error)), 2: RuntimeError("odd")}
    raised = ended_by(WorkerGroupError("two workers failed", failures))
    assert (type(raised), raised.args) == (cls, (error if cls is not WorkLost else caused).args)


def test_a_worker_that_died_says_nothing(ended_by):
    raised = ended_by(WorkerGroupError("a worker died", {1: RayActorError()}))
    assert type(raised) is WorkLost
    assert raised.what.startswith("Ray Train failed: WorkerGroupError: ")


@pytest.fixture
def work_as(monkeypatch):
    """`work_as(task, rank)` runs Ray Train's function on one of two workers; returns its error."""

    def run(task, rank=0):
        place = SimpleNamespace(get_world_rank=lambda: rank, get_world_size=lambda: 2)
        stand_in = SimpleNamespace(train=SimpleNamespace(get_context=lambda: place))
        monkeypatch.setitem(sys.modules, "ray", stand_in)
        with pytest.raises(SlimError) as error:
            ray_train._work({"task": task})
        return pickle.loads(pickle.dumps(error.value))

    return run


@pytest.mark.parametrize("rank", [0, 1])
def test_damaged_inputs_are_reported_by_any_worker(store, make_task, work_as, rank):
    task = make_task()
    data = task.objective.handles.inputs["d"]
    store.file(data, "data.safetensors").write_bytes(b"x")
    failure = work_as(task, rank)
    assert (type(failure), failure.where) == (DamagedArtifact, data.id)


def test_a_mistake_of_ours_fails_at_once_with_its_trace(make_task, work_as, recorder, monkeypatch):
    monkeypatch.setattr(ray_train, "train_worker", raising(RuntimeError("shapes do not match")))
    failure = work_as(make_task())
    assert type(failure) is JobFailed
    assert failure.args == ("job 'teacher'", "RuntimeError: shapes do not match", "")
    assert "in raises" in recorder.said("log")[0]["message"]


@pytest.mark.parametrize(
    "error", [OSError("storage away"), RuntimeError("[gloo/pair.cc:538] Connection closed by peer")]
)
def test_what_may_pass_is_lost_work(make_task, work_as, recorder, monkeypatch, error):
    monkeypatch.setattr(ray_train, "train_worker", raising(error))
    failure = work_as(make_task())
    assert type(failure) is WorkLost
    assert str(error) in failure.what
    assert recorder.said("log") == []


def test_progress_is_sent_at_intervals_and_at_the_end(make_task, recorder, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(ray_train.time, "monotonic", lambda: now[0])
    send = ray_train._Throttled(make_task())
    for step, seconds in ((1, 0.0), (2, 0.1), (3, 0.3), (4, 0.2), (11, 0.1), (12, 0.1)):
        now[0] += seconds
        send(step, {"loss": float(step)})
    sent = recorder.said("progress")
    assert [details["done"] for details in sent] == [1, 4, 12]
    assert sent[-1] == {"done": 12, "total": 12, "metrics": {"loss": 12.0}}


def test_workers_need_no_more_than_pickle(make_task, make_model):
    task = make_task(initial=make_model())
    other = pickle.loads(pickle.dumps(task))
    assert other.spec == task.spec
    assert other.store.uri == task.store.uri
    assert other.objective.spec == task.objective.spec
