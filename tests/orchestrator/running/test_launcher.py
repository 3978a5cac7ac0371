import pickle
import sys
import time
from types import SimpleNamespace

import pytest
from fake_ray import Actor, Clock, FakeRay, RayActorError

from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.context import SilentReporter
from slimctl.jobs.execution import JobRequest
from slimctl.orchestrator.running import launcher
from slimctl.orchestrator.running.launcher import (
    IDLE_S,
    NAMESPACE,
    JobActor,
    Launched,
    Launcher,
    RayReporter,
)

ONE = Needs(cpus=1, gpus=0)
GPU = Needs(cpus=0, gpus=1)


class Recorder:
    """Keeps what `run` was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def run(self, *arguments: object) -> str:
        self.calls.append(arguments)
        return "outcome"


class Bench:
    """A launcher on a stand-in for Ray."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> None:
        self.clock = Clock()
        self.ray = FakeRay(self.clock, self.make)
        monkeypatch.setitem(sys.modules, "ray", self.ray)
        monkeypatch.setattr(launcher, "time", SimpleNamespace(monotonic=self.clock.monotonic))
        self.freed: list[str] = []
        monkeypatch.setattr(launcher, "free_placement", self.freed.append)
        self.launcher = Launcher("run-1", cluster)
        self._count = 0

    def make(self, cls: type) -> Recorder:
        assert cls is JobActor
        return Recorder()

    def launch(
        self, needs: Needs = ONE, *, own: bool = False, artifact: str = "", alone: bool = False
    ) -> Launched:
        self._count += 1
        request = JobRequest(
            f"job-{self._count}", "load_dataset", {}, artifact or f"a-{self._count}", {}, "/store",
            Cluster(cpus=2), SilentReporter(),
        )  # fmt: skip
        placement = "alone" if alone else "own" if own else "shared"
        return self.launcher.launch(request, placement, needs)

    @property
    def alive(self) -> list[Actor]:
        return [actor for actor in self.ray.actors if actor not in self.ray.killed]


@pytest.fixture
def bench(monkeypatch) -> Bench:
    return Bench(monkeypatch, Cluster(cpus=2, gpus=1))


def test_short_work_gets_a_worker_with_its_devices(bench):
    launched = bench.launch(Needs(cpus=2, gpus=0))
    assert launched.shared
    assert launched.actor.options == {"num_cpus": 2, "num_gpus": 0}
    ((request, threads, on_gpu),) = launched.actor.target.calls
    assert (request.job, threads, on_gpu) == ("job-1", 2, False)
    assert launched.future.value == "outcome"
    ((_, threads, on_gpu),) = bench.launch(GPU).actor.target.calls
    assert (threads, on_gpu) == (1, True)


def test_long_work_gets_an_actor_that_outlives_the_supervisor(bench):
    launched = bench.launch(own=True, artifact="train_flow-1")
    assert not launched.shared
    assert launched.actor.options == {
        "num_cpus": 0, "num_gpus": 0, "lifetime": "detached", "namespace": NAMESPACE,
        "name": "job-train_flow-1", "get_if_exists": True,
    }  # fmt: skip


def test_long_work_of_one_process_holds_its_devices_in_such_an_actor(bench):
    launched = bench.launch(Needs(cpus=2, gpus=0), alone=True, artifact="train_flow-1")
    assert not launched.shared
    assert launched.actor.options == {
        "num_cpus": 2, "num_gpus": 0, "lifetime": "detached", "namespace": NAMESPACE,
        "name": "job-train_flow-1", "get_if_exists": True,
    }  # fmt: skip
    ((_, threads, on_gpu),) = launched.actor.target.calls
    assert (threads, on_gpu) == (2, False)


def test_a_second_wish_for_the_same_long_work_joins_the_first(bench):
    first = bench.launch(own=True, artifact="train_flow-1")
    assert bench.launch(own=True, artifact="train_flow-1").actor is first.actor
    assert bench.launch(own=True, artifact="train_flow-2").actor is not first.actor


def test_a_worker_is_used_again(bench):
    first = bench.launch()
    bench.launcher.release(first, alive=True)
    assert bench.launch().actor is first.actor
    assert len(bench.ray.actors) == 1


def test_a_worker_serves_one_job_at_a_time(bench):
    assert bench.launch().actor is not bench.launch().actor


def test_a_worker_of_another_size_is_not_used(bench):
    first = bench.launch(ONE)
    bench.launcher.release(first, alive=True)
    assert bench.launch(Needs(cpus=0.5, gpus=0)).actor is not first.actor


@pytest.mark.parametrize(("own", "alive"), [(False, False), (True, True), (True, False)])
def test_other_actors_end_with_their_job(bench, own, alive):
    launched = bench.launch(own=own)
    bench.launcher.release(launched, alive=alive)
    assert bench.ray.killed == [launched.actor]


def test_an_idle_worker_gives_way_to_a_job_that_needs_its_devices(bench):
    first, second = bench.launch(), bench.launch()
    bench.launcher.release(first, alive=True)
    bench.launcher.release(second, alive=True)
    third = bench.launch(Needs(cpus=2, gpus=0))
    assert bench.alive == [third.actor]


def test_no_more_idle_workers_give_way_than_must(bench):
    first, second = bench.launch(), bench.launch()
    bench.launcher.release(first, alive=True)
    bench.launcher.release(second, alive=True)
    third = bench.launch(Needs(cpus=0.5, gpus=0))
    assert bench.alive == [second.actor, third.actor]


def test_an_idle_worker_gives_way_to_long_work(bench):
    first = bench.launch()
    bench.launcher.release(first, alive=True)
    own = bench.launch(Needs(cpus=2, gpus=1), own=True)
    assert bench.alive == [own.actor]


def test_busy_workers_are_left_alone(bench):
    busy = bench.launch()
    huge = bench.launch(Needs(cpus=64, gpus=0))
    assert bench.alive == [busy.actor, huge.actor]


def test_idle_workers_end_after_a_while(bench):
    first = bench.launch()
    bench.launcher.release(first, alive=True)
    bench.clock.sleep(IDLE_S - 1)
    bench.launcher.retire()
    assert bench.alive == [first.actor]
    bench.clock.sleep(2)
    bench.launcher.retire()
    assert bench.alive == []


def test_closing_ends_everything(bench):
    bench.launcher.release(bench.launch(), alive=True)
    bench.launch(GPU)
    bench.launch(own=True, artifact="train_flow-1")
    bench.launcher.close()
    bench.launcher.close()
    assert bench.alive == []
    assert bench.freed == ["train_flow-1"]


def test_an_actor_that_is_dead_already_is_no_trouble(bench):
    launched = bench.launch(own=True)
    bench.ray.kill(launched.actor)
    with pytest.raises(RayActorError):
        bench.ray.kill(launched.actor)
    bench.launcher.release(launched, alive=False)


def test_a_supervisor_that_is_superseded_leaves_long_work_to_its_successor(bench):
    own = bench.launch(own=True, artifact="train_flow-1")
    shared = bench.launch()
    bench.launcher.close(keep_own=True)
    assert bench.ray.killed == [shared.actor]
    assert own.actor in bench.alive


def test_workers_give_way_on_the_cluster_as_it_is_now(bench):
    first, second = bench.launch(), bench.launch()
    bench.launcher.release(first, alive=True)
    bench.launcher.release(second, alive=True)
    bench.launcher.resize(Cluster(cpus=8, gpus=1))
    third = bench.launch(Needs(cpus=2, gpus=0))
    assert bench.alive == [first.actor, second.actor, third.actor]


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple] = []

    def report(self, *said: object) -> None:
        self.heard.append(said)


@pytest.fixture
def ray(monkeypatch) -> FakeRay:
    """Ray with one supervisor, known by name."""
    fake = FakeRay(Clock())
    fake.supervisor = Actor(Listener(), {})
    fake.asked = []

    def get_actor(name: str, namespace: str) -> Actor:
        fake.asked.append((name, namespace))
        if fake.supervisor is None:
            raise ValueError(f"no actor {name}")
        return fake.supervisor

    fake.get_actor = get_actor
    monkeypatch.setitem(sys.modules, "ray", fake)
    return fake


def test_what_a_job_says_reaches_the_supervisor(ray):
    reporter = RayReporter("supervisor-run-1")
    reporter.send("data", "progress", done=1, total=2)
    reporter.send("data", "log", message="x")
    assert ray.supervisor.target.heard == [
        ("data", "progress", {"done": 1, "total": 2}),
        ("data", "log", {"message": "x"}),
    ]
    assert ray.asked == [("supervisor-run-1", NAMESPACE)], "it is looked up once"


def test_a_reporter_travels_without_its_connection(ray):
    reporter = RayReporter("supervisor-run-1")
    reporter.send("data", "log", message="x")
    copy = pickle.loads(pickle.dumps(reporter))
    copy.send("data", "log", message="y")
    assert ray.supervisor.target.heard[-1] == ("data", "log", {"message": "y"})
    assert len(ray.asked) == 2


def test_work_goes_on_without_a_supervisor_and_finds_it_again(ray):
    supervisor, ray.supervisor = ray.supervisor, None
    reporter = RayReporter("supervisor-run-1")
    reporter.send("data", "log", message="lost")
    ray.supervisor = supervisor
    reporter.send("data", "log", message="heard")
    assert supervisor.target.heard == [("data", "log", {"message": "heard"})]


def test_a_supervisor_that_died_is_looked_up_anew(ray, monkeypatch):
    reporter = RayReporter("supervisor-run-1")

    def dead(*said: object) -> None:
        raise RayActorError("dead")

    broken = SimpleNamespace(report=SimpleNamespace(remote=dead))
    monkeypatch.setattr(reporter, "_handle", broken)
    monkeypatch.setattr(reporter, "_found_s", time.monotonic())
    reporter.send("data", "log", message="lost")
    reporter.send("data", "log", message="heard")
    assert ray.supervisor.target.heard == [("data", "log", {"message": "heard"})]


@pytest.mark.parametrize(
    ("on_gpu", "available", "device"),
    [(False, True, "cpu"), (True, False, "cpu"), (True, True, "cuda")],
)
def test_a_declared_gpu_that_is_not_there_means_the_cpu(monkeypatch, on_gpu, available, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: available)
    monkeypatch.setattr(launcher, "execute", lambda *arguments: arguments)
    assert JobActor().run("request", 3, on_gpu) == ("request", device, 3)


def test_an_actor_runs_a_job_and_says_that_it_is_up(tmp_path, ray):
    request = JobRequest(
        "data", "load_dataset", {"source": "digits", "max_images": 20}, "load_dataset-0", {},
        str(tmp_path), Cluster(cpus=1), RayReporter("supervisor-run-1"),
    )  # fmt: skip
    actor = JobActor()
    assert actor.ready()
    first = actor.run(request, 1, False)
    assert first.failure is None
    assert actor.run(request, 1, False).device_s == first.device_s, "again is free"
