"""What only a real Ray can show: two nodes, devices, dying actors, several training workers."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import ray
import torch
from builders import TINY
from here import run_here
from ray.cluster_utils import Cluster as RayCluster
from ray_processes import note

from slimctl import Pipeline, submit
from slimctl.jobs.base.artifacts import Dataset
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import Handles, JobContext
from slimctl.jobs.base.errors import (
    BadDevice,
    CollectiveHung,
    DamagedArtifact,
    JobFailed,
    Preempted,
    TrainingDiverged,
)
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.objectives.train_flow import FlowMatching
from slimctl.jobs.pairs import pool
from slimctl.jobs.pairs.pool import Life, Pool
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training.checkpoint import load_checkpoint
from slimctl.jobs.training.objective import WHOLE, Objective, Part, Share
from slimctl.jobs.training.ray_train import train_on_ray
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.solvers.spec import EulerSpec
from slimctl.models.spec import ImageShape
from slimctl.orchestrator.running.launcher import NAMESPACE

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
NETWORK = SongUNetSpec(channels=8, channel_multipliers=(1, 2), blocks=1)
IMAGE = ImageShape(channels=1, size=8)


@pytest.fixture(scope="module")
def local_ray():
    """A private Ray with two CPUs, shared by the tests of this file that need no more."""
    # Test classes travel by value: workers do not see the tests' folder.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, namespace=NAMESPACE,
        log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.1",
    )  # fmt: skip
    yield
    ray.shutdown()


def digits(store: Store) -> Dataset:
    """The stored digits, read without a run."""
    from slimctl.jobs.base.context import SilentReporter
    from slimctl.jobs.execution import JobRequest, execute

    request = JobRequest(
        "data", "load_dataset", {"source": "digits"}, "load_dataset-0", {}, store.uri,
        Cluster(2), SilentReporter(),
    )  # fmt: skip
    assert execute(request).failure is None
    return store.load("load_dataset-0", Dataset)


def context(store: Store, tmp_path: Path, artifact: str) -> JobContext:
    return JobContext("teacher", artifact, store, {}, tmp_path, Cluster(2))


def test_two_workers_train_what_one_trains(local_ray, tmp_path):
    """At equal global batch and without dropout they differ by rounding only."""
    store = Store(str(tmp_path / "store"))
    data = digits(store)
    weights = []
    for workers in (1, 2):
        spec = TrainFlow(
            data="data", network=NETWORK, steps=12, batch_size=64, learning_rate=1e-3,
            workers=workers, seed=5, precision="float32", flip=False,
        )  # fmt: skip
        objective = FlowMatching(spec, Handles(store, "", {"data": data}))
        made = train_on_ray(
            context(store, tmp_path, f"flow-{workers}"), spec, NETWORK, IMAGE, objective
        )
        weights.append(made.weights)
    one, two = weights
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=2e-4, atol=2e-5)


@dataclass
class BrokenAt(Objective):
    """A loss that is NaN at one step."""

    step: int

    def prepare(self, share: Share) -> None:
        self._device = share.device

    def loss(self, network: torch.nn.Module, step: int, part: Part = WHOLE) -> torch.Tensor:
        total = sum(p.square().mean() for p in network.parameters())
        return total * float("nan") if step == self.step else total


def test_a_loss_that_turns_nan_stops_the_job_with_step_and_checkpoint(local_ray, tmp_path):
    store = Store(str(tmp_path / "store"))
    spec = TrainFlow(
        data="data", network=NETWORK, steps=40, batch_size=8, workers=1, log_every=5,
        checkpoint_s=1e-3, shared=False,
    )  # fmt: skip
    where = context(store, tmp_path, "flow-nan")
    with pytest.raises(TrainingDiverged, match=r"nan at step 23.*checkpoint-0000000\d\d"):
        train_on_ray(where, spec, NETWORK, IMAGE, BrokenAt(23))


@dataclass
class DamagedOnOne(Objective):
    """A training whose second worker finds a damaged shard at its second step.

    Args:
        folder: takes a file for each start of a worker, and the time of the error.
    """

    folder: Path

    def prepare(self, share: Share) -> None:
        self._second = share.first > 0
        (self.folder / f"start-{time.time_ns()}").touch()

    def loss(self, network: torch.nn.Module, step: int, part: Part = WHOLE) -> torch.Tensor:
        if self._second and step == 1:
            (self.folder / "raised").write_text(str(time.time()))
            raise DamagedArtifact("pairs-1", "shard-00007 differs", "submit again")
        return network(torch.ones(1, 1, 8, 8), torch.ones(1), None).square().mean()


def test_a_final_error_of_one_worker_ends_all_at_once(local_ray, tmp_path):
    store = Store(str(tmp_path / "store"))
    spec = TrainFlow(data="data", network=NETWORK, steps=40, batch_size=8, workers=2)
    where, objective = context(store, tmp_path, "flow-damaged"), DamagedOnOne(tmp_path)
    with pytest.raises(DamagedArtifact, match="shard-00007 differs") as error:
        train_on_ray(where, spec, NETWORK, IMAGE, objective)
    seconds = time.time() - float((tmp_path / "raised").read_text())
    note("a final error of one of two workers", seconds=seconds)
    assert error.value.exit_code == 3
    assert len(list(tmp_path.glob("start-*"))) == 2, "once on each worker"


@dataclass
class Troubled(Objective):
    """A training whose second worker hangs, is asked to leave or breaks its GPU, at one step."""

    trouble: str
    step: int = 3

    def prepare(self, share: Share) -> None:
        self._second = share.first > 0

    def loss(self, network: torch.nn.Module, step: int, *_: object) -> torch.Tensor:
        if self._second and step == self.step:
            if self.trouble == "hangs":
                time.sleep(600)
            if self.trouble == "SIGTERM":
                os.kill(os.getpid(), signal.SIGTERM)
            if self.trouble == "breaks":
                raise RuntimeError("CUDA error: uncorrectable ECC error encountered")
        time.sleep(0.2)  # a notice takes a second to reach the first worker
        return network(torch.ones(1, 1, 8, 8), torch.ones(1), None).square().mean()


@pytest.mark.faults
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("trouble", "cls", "what"),
    [
        ("hangs", CollectiveHung, r"no worker got beyond step 3: worker 1 stood in loss \(test_on"),
        ("SIGTERM", Preempted, r"worker 1: SIGTERM came: a checkpoint of step \d+ was written"),
        ("breaks", BadDevice, r"uncorrectable ECC error encountered, after step 3"),
    ],
)
def test_trouble_of_one_of_two_workers_is_named(local_ray, tmp_path, trouble, cls, what):
    store = Store(str(tmp_path / "store"))
    spec = TrainFlow(data="data", network=NETWORK, steps=60, batch_size=8, workers=2, hang_s=4.0)
    where = context(store, tmp_path, f"flow-{trouble}")
    with pytest.raises(cls, match=what):
        train_on_ray(where, spec, NETWORK, IMAGE, Troubled(trouble))
    checkpoint = load_checkpoint(where.work)
    assert (checkpoint is not None) == (trouble == "SIGTERM")
    assert checkpoint is None or checkpoint.step < 60


@ray.remote
class Fragile:
    """Squares numbers; dies on some, once or always."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def ready(self) -> bool:
        return True

    def make(self, item: int) -> int:
        marker = self._folder / str(item)
        if item == 13 or (item % 5 == 0 and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item * item


def test_a_pool_outlives_its_actors_and_names_poison(local_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "TOGETHER_S", 0.5)  # below the shortest pause
    monkeypatch.setattr(pool, "PAUSE_S", 0.7)
    options = {"max_restarts": -1, "max_task_retries": 0, "num_cpus": 0.5}
    actors = [Fragile.options(**options).remote(str(tmp_path)) for _ in range(2)]
    done: dict[int, int] = {}
    with pytest.raises(JobFailed, match=r"killed their actor 3 times: 13\n"):
        Pool[int](actors, "pairs").run(range(20), done.__setitem__)
    assert done == {item: item * item for item in range(20) if item != 13}


@ray.remote
class Bombed:
    """On item 3 every actor of the pool dies, as if from outside, the first `often` times."""

    def __init__(self, folder: str, often: int) -> None:
        self._folder = Path(folder)
        self._often = often
        (self._folder / f"actor-{os.getpid()}").touch()

    def ready(self) -> Life:
        return Life.here()

    def make(self, item: int) -> int:
        bombs = len(list(self._folder.glob("bomb-*")))
        if item == 3 and bombs < self._often:
            (self._folder / f"bomb-{bombs}").touch()
            others = [int(each.name[6:]) for each in self._folder.glob("actor-*")]
            for pid in sorted(others, key=lambda each: each == os.getpid()):
                (self._folder / f"actor-{pid}").unlink()
                os.kill(pid, signal.SIGKILL)
        return item * item


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_kills_that_hit_every_actor_convict_no_item(local_ray, tmp_path, monkeypatch):
    """More often than would convict it if it alone had died."""
    monkeypatch.setattr(pool, "PAUSE_S", 0.2)
    options = {"max_restarts": -1, "max_task_retries": 0, "num_cpus": 0.5}
    actors = [Bombed.options(**options).remote(str(tmp_path), 5) for _ in range(2)]
    done: dict[int, int] = {}
    Pool[int](actors, "pairs").run(range(4), done.__setitem__)
    assert done == {item: item * item for item in range(4)}
    assert len(list(tmp_path.glob("bomb-*"))) == 5


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_pool_does_not_wait_for_actors_without_a_place(local_ray, tmp_path):
    options = {"max_restarts": -1, "max_task_retries": 0, "num_cpus": 1.5}
    actors = [Fragile.options(**options).remote(str(tmp_path)) for _ in range(3)]
    (tmp_path / "0").touch()
    (tmp_path / "5").touch()
    done: dict[int, int] = {}
    Pool[int](actors, "pairs").run(range(8), done.__setitem__)
    assert len(done) == 8


def tiny(storage: Path) -> Pipeline:
    """The first jobs of the tiny pipeline, built in Python."""
    from slimctl.orchestrator.pipeline.pipeline import parse_pipeline

    whole = parse_pipeline(TINY, "tiny.yaml", storage=str(storage)).pipeline
    kept = {name: whole.jobs[name] for name in ("data", "teacher", "pairs")}
    return whole.model_copy(update={"jobs": kept})


def pair_bytes(storage: Path) -> dict[str, bytes]:
    files = sorted(storage.glob("pairs/*/*.safetensors"))
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture
def no_ray():
    """Ends the connection of earlier tests: a cluster test opens its own."""
    ray.shutdown()
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_declared_gpus_go_one_to_each_actor(no_ray, tmp_path):
    """With work enough that the second actor finds some when it has started."""
    pipeline = tiny(tmp_path / "store")
    more = {"count": 4000, "solver": EulerSpec(steps=150)}
    pairs = pipeline.jobs["pairs"].model_copy(update=more)
    pipeline = pipeline.model_copy(update={"jobs": {**pipeline.jobs, "pairs": pairs}})
    ray.init(
        address="local", num_cpus=2, num_gpus=2, include_dashboard=False, namespace=NAMESPACE,
        log_to_driver=False, logging_level="ERROR", _node_ip_address="127.0.0.1",
    )  # fmt: skip
    result = submit(pipeline)
    assert result.status.state == "done"
    store = Store(str(tmp_path / "store"))
    manifest = store.manifest(result.status.jobs["pairs"].artifact)
    assert manifest.engine["actors"] == 2
    assert manifest.engine["devices"] == ["cpu (gpu 0)", "cpu (gpu 1)"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_cluster_of_two_nodes_makes_the_same_pairs(no_ray, tmp_path):
    """As one process does: real raylets on two loopback addresses, joined as a user would."""
    cluster = RayCluster()
    try:
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.2", include_dashboard=False)
        cluster.add_node(num_cpus=1, node_ip_address="127.0.0.3")
        command = [sys.executable, "-m", "slimctl", "submit", "-", "--json"]
        file = tmp_path / "tiny.yaml"
        file.write_text(TINY.split("  student:")[0])
        command[4] = str(file)
        command += ["--address", cluster.address, "--storage", str(tmp_path / "two")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
    finally:
        with contextlib.suppress(Exception):
            cluster.shutdown()
    run_here(tmp_path / "one", file.read_text())
    assert pair_bytes(tmp_path / "two") == pair_bytes(tmp_path / "one")
    assert len(pair_bytes(tmp_path / "one")) == 4


def test_no_cluster_at_the_address_is_the_users_error(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    command = [sys.executable, "-m", "slimctl", "submit", str(file)]
    command += ["--address", "127.0.0.1:1", "--storage", str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    assert "127.0.0.1:1" in done.stderr
    assert "ray start --head" in done.stderr
