"""Checkpoints that are written beside the training: slow, failing and killed storages."""

import hashlib
import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch
from safetensors.torch import load
from torch import nn

from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.storage.tensors import safetensors_pieces
from slimctl.jobs.training.checkpoint import Checkpoint, CheckpointWriter, load_checkpoint
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import Objective, Share

STEPS = 12
EVERY_STEP = 1e-9


class Shrinking(Objective):
    """Shrinks the weights; `at` is called with each step."""

    def __init__(self, at=lambda step: None):
        self.at = at

    def prepare(self, share):
        """There is no data."""

    def loss(self, network, step, *_):
        self.at(step)
        return network(torch.full((1, 4), 1.0 + step)).square().mean()


class Storage(LocalBlobs):
    """Calls `at(name)` in the middle of the write of a checkpoint."""

    def __init__(self, root, at):
        super().__init__(root)
        self.at = at

    def write(self, name, data):
        super().write(name, self.broken(name, data) if name.startswith("checkpoint") else data)

    def broken(self, name, data):
        for piece in data:
            yield piece[: len(piece) // 2]
            self.at(name)
            yield piece[len(piece) // 2 :]


def train(folder, at=lambda step: None, checkpoint_s=EVERY_STEP):
    network = {"kind": "song_unet", "channels": 4}
    spec = TrainFlow(
        data="d", network=network, steps=STEPS, batch_size=1, seed=1, checkpoint_s=checkpoint_s
    )
    torch.manual_seed(0)
    share = Share(0, 1, 1, torch.device("cpu"))
    Trainer(spec, nn.Linear(4, 4), Shrinking(at), share, folder, lambda *_: None).run()


def tensors(folder):
    return load_checkpoint(folder).tensors


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture
def whole(tmp_path):
    """The last checkpoint of a training whose storage is never slow."""
    folder = LocalBlobs(tmp_path / "whole")
    train(folder, checkpoint_s=1e9)
    return tensors(folder)


def test_a_slow_storage_stalls_no_step_and_has_one_write_at_a_time(tmp_path, whole):
    """The first write lasts for ten steps; the last one is waited for."""
    begun, writes, free = threading.Event(), [], threading.Event()

    def slow(name):
        if name not in writes:
            writes.append(name)
            begun.set()
        assert free.wait(60)

    def at(step):
        if step == 1:
            assert begun.wait(60)
        if step == STEPS - 1:
            assert len(writes) == 1
            assert load_checkpoint(folder) is None
            free.set()

    folder = Storage(tmp_path / "slow", slow)
    train(folder, at)
    assert writes == ["checkpoint-000000001.safetensors", "checkpoint-000000012.safetensors"]
    assert load_checkpoint(folder).step == STEPS
    assert_same(tensors(folder), whole)


def test_what_is_written_is_the_state_of_its_step(tmp_path):
    """The weights change while they are written."""
    weight, free = torch.zeros(1000), threading.Event()
    folder = Storage(tmp_path, lambda name: free.wait(60))
    with CheckpointWriter(folder, 1.0) as writer:
        for step in (1, 2):  # the second is copied into the memory of the first
            free.clear()
            writer.begin(Checkpoint(step, 0.0, {"w": weight.fill_(step), "n": torch.tensor(step)}))
            weight.fill_(-1.0)
            free.set()
            writer.wait()
            assert (tensors(folder)["w"] == step).all()


def test_time_counts_from_the_end_of_a_write(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def takes_forty_seconds(name):
        now[0] += 20.0

    folder = Storage(tmp_path, takes_forty_seconds)  # two pieces, of 20 s each
    with CheckpointWriter(folder, 30.0) as writer:
        now[0] = 30.0
        assert writer.is_due()
        writer.begin(Checkpoint(1, 0.0, {"w": torch.zeros(2)}))
        writer.wait()
        assert now[0] == 70.0
        assert not writer.is_due()
        now[0] = 100.0
        assert writer.is_due()


@pytest.mark.parametrize("at", ["a step", "the end"])
def test_a_write_that_fails_ends_the_training(tmp_path, at):
    def full(name):
        raise OSError(28, "No space left on device")

    def wait(step):
        time.sleep(0.01)

    folder = Storage(tmp_path, full)
    with pytest.raises(OSError, match="No space left"):
        train(folder, wait, EVERY_STEP if at == "a step" else 1e9)
    assert load_checkpoint(folder) is None


def test_an_error_of_the_training_waits_for_the_write_and_stays_what_it_is(tmp_path):
    def slow(name):
        time.sleep(0.05)

    def crash(step):
        if step == 1:
            raise ZeroDivisionError

    folder = Storage(tmp_path, slow)
    with pytest.raises(ZeroDivisionError):
        train(folder, crash)
    assert load_checkpoint(folder).step == 1


def test_a_kill_in_the_middle_of_a_write_resumes_from_the_one_before(tmp_path, whole):
    folder, marker = LocalBlobs(tmp_path / "killed"), tmp_path / "writing"

    def stall(name):
        if int(name[11:20]) > 3:
            marker.touch()
            time.sleep(60)

    def pace(step):
        time.sleep(0.02)

    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=train, args=(Storage(folder.root, stall), pace))
    child.start()
    while not marker.exists():
        assert child.is_alive()
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert list(folder.root.glob(".checkpoint-*.tmp")), "half a file is there"
    found, asked = load_checkpoint(folder).step, []
    assert 1 <= found < STEPS
    train(folder, asked.append)
    assert asked[0] == found
    assert_same(tensors(folder), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.bool])
def test_the_pieces_are_a_safetensors_file(dtype):
    made = {
        "turned": torch.arange(6).view(2, 3).T.to(dtype),
        "one": torch.tensor(1).to(dtype),
        "none": torch.empty(0, 3).to(dtype),
        "step": torch.tensor(3, dtype=torch.int64),
        "bytes": torch.arange(5, dtype=torch.uint8),
    }
    data = b"".join(safetensors_pieces(made))
    assert_same(load(data), made)


def test_nothing_is_copied_on_the_way_to_the_file():
    value = torch.zeros(1000)
    pieces = [memoryview(piece) for piece in safetensors_pieces({"w": value})]
    before = hashlib.sha256(pieces[1]).hexdigest()
    value.fill_(1.0)
    assert hashlib.sha256(pieces[1]).hexdigest() != before
