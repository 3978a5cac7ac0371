"""An evaluation on real actors, one of which is killed with a shard in hand."""

import contextlib
import os
import signal

import pytest
import ray
from ray_processes import processes

from slimctl.jobs.base.artifacts import QualityReport
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import Reporter
from slimctl.jobs.execution import JobRequest, execute
from slimctl.jobs.storage.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
ASKED = {
    "model": "teacher", "data": "data", "features": "features", "samples": 10000, "draws": 2,
    "solver": {"kind": "euler", "steps": 3}, "manifold_samples": 300, "seed": 2,
}  # fmt: skip
JOBS = {
    "data": ("load_dataset", {"source": "digits", "max_images": 300}),
    "features": ("train_features", {"data": "data", "steps": 10, "seed": 0,
                                    "network": {"channels": 8, "features": 16}}),
    "teacher": ("analytic_flow", {"data": "data", "bandwidth": 0.05}),
}  # fmt: skip
TIMES = {"latency_ms", "latency_p90_ms", "latency_quiet", "id"}


class Killer(Reporter):
    """Kills an actor when the first shard is done."""

    def __init__(self) -> None:
        self.killed: list[int] = []
        self.told: list[int] = []

    def send(self, job, event, **details):
        if event != "progress" or job != "quality":
            return
        self.told.append(details["done"])
        if not self.killed:
            self.killed = processes("ray::EvaluationActor")[:1]
            for pid in self.killed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture
def local_ray():
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR", _node_ip_address="127.0.0.1",
    )  # fmt: skip
    yield
    ray.shutdown()


def test_an_actor_that_dies_costs_its_shard_and_nothing_else(local_ray, tmp_path):
    store, reporter = Store(str(tmp_path)), Killer()
    inputs = {job: f"{kind}-0" for job, (kind, _) in JOBS.items()}

    def run(job, kind, fields, artifact):
        named = {name: inputs[name] for name in inputs if name in fields.values()}
        request = JobRequest(
            job, kind, fields, artifact, named, store.uri, Cluster(2), reporter
        )  # fmt: skip
        done = execute(request)
        assert done.failure is None, done

    for job, (kind, fields) in JOBS.items():
        run(job, kind, fields, inputs[job])
    run("quality", "evaluate", ASKED | {"actors": 2}, "evaluate-pool")
    assert reporter.killed
    assert sorted(set(reporter.told)) == [2500 * n for n in range(1, 9)]
    run("quality", "evaluate", ASKED, "evaluate-alone")
    reports = [store.load(f"evaluate-{name}", QualityReport) for name in ("pool", "alone")]
    pool, alone = ({k: v for k, v in one.model_dump().items() if k not in TIMES} for one in reports)
    assert pool == alone
