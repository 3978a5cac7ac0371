import pytest
from supervised import job

from slimctl.jobs.base.cluster import Cluster, NodeSize, Resources
from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator.planning.plan import PlannedJob, RunPlan
from slimctl.orchestrator.running.demand import runs_on_cpus
from slimctl.orchestrator.running.preconditions import check_devices


def training(**fields: object) -> PlannedJob:
    network = {"kind": "mlp", "width": 8}
    fields = {"data": "data", "network": network, "steps": 9, **fields}
    return job("flow").model_copy(update={"kind": "train_flow", "fields": fields})


def plan(*jobs: PlannedJob, gpus: int | None = None) -> RunPlan:
    resources = None if gpus is None else Resources(gpus=gpus)
    return RunPlan(name="a", storage="/s", tracking=None, jobs=jobs, resources=resources)


def test_a_private_ray_refuses_what_its_machine_never_has():
    small = Cluster(cpus=2)
    assert check_devices(plan(training(workers=2), gpus=0), small, grows=False) == []
    with pytest.raises(UserError, match=r"needs 4 x \(1 CPU\), of which 2 fit"):
        check_devices(plan(training(workers=4)), small, grows=False)
    with pytest.raises(UserError, match="no more are to come") as error:
        check_devices(plan(training(), gpus=8), small, grows=False)
    assert "--expect-gpus 0" in error.value.fix


def test_a_cluster_that_may_grow_is_waited_for():
    small = Cluster(cpus=2)
    (warning,) = check_devices(plan(training(workers=4)), small, grows=True)
    assert "of which 2 fit on the nodes: 1 x (2 CPUs); it waits for nodes" in warning
    assert check_devices(plan(training(workers=4), gpus=8), small, grows=True) == []
    known = Cluster.of(small.nodes, [(NodeSize(1), 1)])
    with pytest.raises(UserError, match="of which 3 fit"):
        check_devices(plan(training(workers=4)), known, grows=True)


def test_it_is_reported_that_jobs_run_on_cpus():
    head = Cluster(cpus=2)
    assert "no GPU now, so the jobs run on its CPUs" in runs_on_cpus(plan(training()), head)
    known = Cluster.of(head.nodes, [(NodeSize(8, 4), 3)])
    assert "It can start 12." in runs_on_cpus(plan(training()), known)
    assert runs_on_cpus(plan(training(), gpus=8), head) == ""
    assert runs_on_cpus(plan(training()), Cluster(cpus=2, gpus=1)) == ""
    assert runs_on_cpus(plan(job("data")), head) == "", "nothing of it would use a GPU"
