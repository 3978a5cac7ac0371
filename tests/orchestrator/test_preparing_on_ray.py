"""Shards of images made by two actors, one of which is killed, are those that one process makes."""

import contextlib
import os
import signal

import numpy as np
import pytest
import ray
from PIL import Image
from ray_processes import processes

from slimctl.jobs.base.artifacts import Dataset
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import Reporter
from slimctl.jobs.execution import JobRequest, execute
from slimctl.jobs.kinds import load_dataset
from slimctl.jobs.preparing import prepare
from slimctl.jobs.storage.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


class Killer(Reporter):
    """Kills an actor when the first shard is done."""

    def __init__(self) -> None:
        self.killed: list[int] = []

    def send(self, job, event, **details):
        if event == "progress" and not self.killed:
            self.killed = processes("ray::PrepareActor")[:1]
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


def test_two_actors_one_of_which_dies_write_what_one_process_writes(
    local_ray, tmp_path, monkeypatch
):
    monkeypatch.setattr(load_dataset, "WHOLE_BYTES", 0)
    monkeypatch.setattr(prepare, "SHARD_BYTES", 20 * 8 * 8 * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (150, 12, 12, 3), np.uint8)
    (tmp_path / "images").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{number:03d}.png")
    store, reporter = Store(str(tmp_path / "store")), Killer()
    for actors in (2, 1):
        fields = {"source": str(tmp_path / "images"), "size": 8, "actors": actors}
        request = JobRequest(
            "data", "load_dataset", fields, f"data-{actors}", {}, store.uri, Cluster(2), reporter
        )
        done = execute(request)
        assert done.failure is None, done
    assert reporter.killed
    pool, alone = (store.load(f"data-{actors}", Dataset) for actors in (2, 1))
    assert pool.count == 150
    assert pool.shard_counts == alone.shard_counts == (20,) * 7 + (10,)
    assert [file.sha256 for file in pool.shards] == [file.sha256 for file in alone.shards]
