"""Signals and drained nodes end an attempt with a checkpoint of the moment."""

import os
import signal
import threading
import time

import pytest
import torch
from gloo import on_gloo
from torch import nn

from slimctl.jobs.base.drain import NOTICE
from slimctl.jobs.base.errors import Preempted
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.training import leaving
from slimctl.jobs.training.checkpoint import load_checkpoint
from slimctl.jobs.training.leaving import Leaving, listening
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import WHOLE, Objective, Share

STEPS = 12
NETWORK = {"kind": "song_unet", "channels": 4}


class Calling(Objective):
    """Calls `at(rank, step)` in each step."""

    def __init__(self, at):
        self.at = at

    def prepare(self, share):
        self.rank = share.first

    def loss(self, network, step, part=WHOLE):
        self.at(self.rank, step)
        return network(torch.full((1, 4), 1.0 + step)).square().mean()


def train(folder, at=lambda rank, step: None, rank=0, world=1):
    spec = TrainFlow(data="d", network=NETWORK, steps=STEPS, batch_size=world, seed=1)
    torch.manual_seed(0)
    share = Share(rank, 1, world, torch.device("cpu"))
    leave = Leaving(folder, rank)
    with listening(), leave.watching():
        Trainer(
            spec, nn.Linear(4, 4), Calling(at), share, folder, lambda *_: None, rank, world,
            leaving=leave.why,
        ).run()  # fmt: skip


def sends(number, at_step):
    def at(rank, step):
        if step == at_step:
            os.kill(os.getpid(), number)

    return at


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_makes_a_checkpoint_of_its_step_and_the_rest_is_the_same(tmp_path, number):
    folder, whole = LocalBlobs(tmp_path / "parts"), LocalBlobs(tmp_path / "whole")
    train(whole)
    before = signal.getsignal(number)
    with pytest.raises(Preempted, match=f"{number.name} came: a checkpoint of step 5 was written"):
        train(folder, sends(number, 4))
    assert signal.getsignal(number) is before
    assert load_checkpoint(folder).step == 5
    train(folder)
    made, expected = load_checkpoint(folder).tensors, load_checkpoint(whole).tensors
    assert all(torch.equal(made[name], value) for name, value in expected.items())


def test_a_signal_in_the_last_step_changes_nothing(tmp_path):
    folder = LocalBlobs(tmp_path)
    train(folder, sends(signal.SIGTERM, STEPS - 1))
    assert load_checkpoint(folder).step == STEPS


def test_a_signal_to_another_worker_reaches_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(leaving, "POLL_S", 0.05)
    folder = LocalBlobs(tmp_path / "work")

    def at(rank, step):
        if rank == 1 and step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.2)

    first, second = on_gloo(tmp_path, lambda rank: train(folder, at, rank, 2))
    assert "Preempted: worker 1: SIGTERM came: a checkpoint of step" in first
    assert "onnection" in second or "eset by peer" in second
    assert 2 <= load_checkpoint(folder).step < STEPS


def test_a_drained_node_is_a_notice(tmp_path, monkeypatch):
    monkeypatch.setattr(leaving, "POLL_S", 0.01)
    monkeypatch.setattr(leaving, "_drained", lambda: "node n1 is drained")
    with pytest.raises(Preempted, match="node n1 is drained"):
        train(LocalBlobs(tmp_path), lambda rank, step: time.sleep(0.05))


def test_a_notice_of_an_earlier_attempt_is_forgotten(tmp_path):
    folder = LocalBlobs(tmp_path)
    folder.write(NOTICE, b"long ago")
    train(folder)
    assert load_checkpoint(folder).step == STEPS


def test_no_handler_is_set_outside_the_main_thread(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=train, args=(LocalBlobs(tmp_path),))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert load_checkpoint(LocalBlobs(tmp_path)).step == STEPS
