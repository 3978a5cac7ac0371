"""A cluster that has no GPU until one is asked for."""

import pytest
import ray
from ray.util.placement_group import placement_group_table
from ray_processes import cluster_of, end_all, ended, slimctl, until

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.running.launcher import NAMESPACE
from slimctl.orchestrator.runs.runs import read_status, run_ids

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

TEXT = """
name: later
tracking: null
jobs:
  data: {kind: load_dataset, source: digits, max_images: 60}
  features: {kind: train_features, data: data, steps: 5}
"""


def pending() -> list[list[dict[str, float]]]:
    """What the reservations ask for that wait for a node."""
    groups = placement_group_table().values()
    return [list(one["bundles"].values()) for one in groups if one["state"] == "PENDING"]


@pytest.fixture
def cluster():
    ray.shutdown()
    with cluster_of(2, first=82) as cluster:
        ray.init(
            cluster.address, namespace=NAMESPACE, log_to_driver=False, logging_level="ERROR",
        )  # fmt: skip
        yield cluster
        end_all()
        ray.shutdown()


def test_a_run_asks_for_gpus_and_waits_for_them(cluster, tmp_path):
    """A reservation that waits is what Ray's autoscalers start nodes for."""
    file, store = tmp_path / "later.yaml", Store(str(tmp_path / "store"))
    file.write_text(TEXT)

    def status():
        return read_status(store.blobs, run_ids(store.blobs)[-1])

    words = ["submit", file, "--storage", store.uri, "--address", cluster.address]
    program = slimctl(*words, "--expect-gpus", 2)
    until(lambda: run_ids(store.blobs) != [] and status().waiting != "")

    assert status().waiting == "waiting for 1 GPU: the cluster has 0"
    assert status().jobs["features"].state == "waiting"
    assert pending() == [[{"GPU": 1.0}]]
    cluster.add_node(num_cpus=2, num_gpus=2, node_ip_address="127.0.0.83")
    code, _, err = ended(program)
    assert code == 0, err
    assert "waiting for 1 GPU" in err
    assert status().jobs["features"].state == "done"
    manifest = store.manifest(status().jobs["features"].artifact)
    assert manifest is not None
    assert manifest.engine["threads"] == 1, "2 CPUs for 2 GPUs: the real node was looked at"
    assert pending() == []
