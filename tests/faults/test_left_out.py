import sys

import pytest
import ray

from slimctl.orchestrator.running.left_out import LeftOut

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(1200)]


@pytest.fixture
def node():
    """Ray's id of a private node with three GPUs that are declared only."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(
        address="local", num_cpus=1, num_gpus=3, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR", _node_ip_address="127.0.0.1",
    )  # fmt: skip
    yield ray.get_runtime_context().get_node_id()
    ray.shutdown()


class Worker:
    """An actor on a GPU."""

    def gpu(self):
        return ray.get_runtime_context().get_accelerator_ids()["GPU"][0]


def test_nothing_is_placed_on_a_gpu_that_is_left_out(node):
    left_out = LeftOut()
    assert left_out.hold(node, "1") == "", "it has no UUID here"
    assert left_out.per_node() == {node: 1}
    worker = ray.remote(Worker).options(num_gpus=1, num_cpus=0)
    workers = [worker.remote() for _ in range(2)]
    assert sorted(ray.get([each.gpu.remote() for each in workers])) == ["0", "2"]
    assert LeftOut().hold("a" * 56, "0") is None, "there is no such node"
    left_out.close()
    assert ray.get(worker.remote().gpu.remote(), timeout=240) == "1"
