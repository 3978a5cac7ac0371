"""Runs that wait for GPUs which their cluster starts on request."""

import pytest
from supervised import RUN, World, job, states, wait_until

from slimctl.jobs.base.cluster import Cluster, Needs, NodeSize, Resources
from slimctl.jobs.execution import JobRequest
from slimctl.orchestrator.planning.plan import PlannedJob, RunPlan
from slimctl.orchestrator.running import supervisor
from slimctl.orchestrator.running.launcher import Launched
from slimctl.orchestrator.running.supervisor import RunRequest, Supervisor


class GpuWorld(World):
    """A cluster without GPUs, whose jobs note what they were laid out for."""

    def __init__(self, monkeypatch, storage):
        super().__init__(monkeypatch, storage)
        self.asked: list[list[float]] = []
        self.laid_out: dict[str, tuple[Needs, int]] = {}
        monkeypatch.setattr(supervisor, "Demand", lambda run: self)

    def ask(self, parts: list[float]) -> None:
        if not self.asked or parts != self.asked[-1]:
            self.asked.append(parts)

    def begin(self, *jobs: PlannedJob, gpus: int) -> Supervisor:
        resources = Resources(gpus=gpus)
        plan = RunPlan(
            name="a", storage=self.storage, tracking=None, jobs=jobs, resources=resources
        )
        self.cluster = Cluster(cpus=2)
        return Supervisor(RunRequest(RUN, plan, self.cluster))

    def launch(self, request: JobRequest, placement: str, needs: Needs) -> Launched:
        self.laid_out[request.job] = needs, request.cluster.gpus
        return super().launch(request, "shared", Needs(1, 0))


@pytest.fixture
def world(monkeypatch, tmp_path) -> GpuWorld:
    return GpuWorld(monkeypatch, str(tmp_path / "store"))


def training() -> PlannedJob:
    fields = {"data": "b", "network": {"kind": "mlp", "width": 8}, "steps": 9, "batch_size": 256}
    return job("train", "b").model_copy(update={"kind": "train_flow", "fields": fields})


def test_jobs_wait_for_the_gpus_that_are_expected(world):
    """They were laid out for the CPUs that were there, and trained on these."""
    driven = world.begin(job("b"), training(), gpus=4)
    wait_until(lambda: driven.status().waiting != "")
    assert driven.status().waiting == "waiting for 4 GPUs: the cluster has 0"
    assert world.launched == ["b"], "what needs no GPU does not wait"
    world.cluster = Cluster.of([NodeSize(2), NodeSize(12, 4)])
    driven._thread.join(20)
    assert states(driven.status()) == {"b": "done", "train": "done"}
    assert driven.status().waiting == ""
    assert world.laid_out["train"] == (Needs(12, 4, parts=4), 4)
    assert world.asked[-2:] == [[1.0] * 4, []]
    said = [event.details["message"] for event in world.said("waiting")]
    assert said == ["waiting for 4 GPUs: the cluster has 0", ""]


def test_a_run_that_is_cancelled_asks_for_nothing_more(world):
    driven = world.begin(training().model_copy(update={"inputs": {}}), gpus=4)
    wait_until(lambda: driven.status().waiting != "")
    driven.cancel()
    driven._thread.join(20)
    assert driven.status().state == "cancelled"
    assert world.asked == [[1.0] * 4, []]
