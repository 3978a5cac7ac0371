import pickle
import sys
import time
from types import SimpleNamespace

import pytest
from fake_ray import Actor, Clock, FakeRay, RayActorError

from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.execution import JobRequest
from slimctl.orchestrator import workers
from slimctl.orchestrator.workers import NAMESPACE, JobActor, RayReporter


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple] = []

    def report(self, *told: object) -> None:
        self.heard.append(told)


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

    def dead(*told: object) -> None:
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
    monkeypatch.setattr(workers, "execute", lambda *arguments: arguments)
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
