"""A worker that hangs while the other waits for it in an exchange."""

import multiprocessing
import time

import pytest
import torch
from torch import nn

from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.training import hang_watch
from slimctl.jobs.training.hang_watch import EXIT_CODE, HangWatch, hung_at
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import WHOLE, Objective, Share

NETWORK = {"kind": "song_unet", "channels": 4}


class Sleeper(Objective):
    """One worker never comes back from the loss of step 3."""

    def prepare(self, share):
        self.hangs = share.first > 0

    def loss(self, network, step, part=WHOLE):
        if self.hangs and step == 3:
            time.sleep(600)
        return network(torch.ones(1, 4)).square().mean()


def work(folder, rank):
    torch.set_num_threads(1)
    meeting = f"file://{folder.root / 'meeting'}"
    torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=2)
    spec = TrainFlow(data="d", network=NETWORK, steps=9, batch_size=2, seed=1)
    share = Share(rank, 1, 2, torch.device("cpu"))
    said = lambda text: folder.write(f"said/{rank}", text.encode())  # noqa: E731
    watch = HangWatch(2.0, folder, said, rank, 2)
    with watch.watching():
        Trainer(
            spec, nn.Linear(4, 4), Sleeper(), share, folder, lambda *_: None, rank, 2,
            alive=watch.alive,
        ).run()  # fmt: skip


def test_a_hung_exchange_ends_all_workers_and_names_the_one_that_lags(tmp_path):
    folder = LocalBlobs(tmp_path)
    tmp_path.mkdir(exist_ok=True)
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=work, args=(folder, rank)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [EXIT_CODE, EXIT_CODE]
    assert hung_at(folder).startswith(
        "no worker got beyond step 3: worker 1 stood in loss (test_hang_watch.py:"
    )
    waiting, late = (folder.read(f"said/{rank}").decode() for rank in (0, 1))
    assert "worker 1 of 2 took no step for 2 s after step 3" in late
    assert "in loss" in late
    assert "backward" in waiting
    assert "exchanges under way: [" in waiting
    hang_watch.forget(folder)
    assert hung_at(folder) == ""


@pytest.fixture
def exits(monkeypatch):
    """Exit codes in place of exits."""
    codes = []
    monkeypatch.setattr(hang_watch.os, "_exit", codes.append)
    return codes


def test_a_training_that_is_over_is_not_watched(tmp_path, exits):
    watch = HangWatch(0.1, LocalBlobs(tmp_path), print, 0, 2)
    with watch.watching():
        watch.alive(1)
    time.sleep(0.4)
    assert exits == []
    assert hung_at(LocalBlobs(tmp_path)) == ""


def test_before_the_first_step_there_is_more_time(tmp_path, exits):
    watch = HangWatch(0.1, LocalBlobs(tmp_path), print, 0, 2)
    with watch.watching():
        time.sleep(0.4)
    assert exits == []
