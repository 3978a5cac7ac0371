import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slimctl.jobs.training.checkpoint import (
    COPY,
    POINTER,
    Checkpoint,
    checkpoint_name,
    load_checkpoint,
    save_checkpoint,
)

SHARED_STORE = [HealthCheck.function_scoped_fixture]  # each example leaves it as it was


@pytest.fixture
def folder(store):
    return store.work("train_flow-1")


def at(step):
    tensors = {
        "model.w": torch.full((3, 2), float(step)),
        "model.turned": torch.arange(6.0).view(2, 3).T,
        "adam.0.step": torch.tensor(float(step)),
    }
    return Checkpoint(step, step / 2, tensors)


def files(folder):
    return [name for name in folder.names() if name.startswith("checkpoint")]


def test_what_is_saved_is_loaded(folder):
    assert load_checkpoint(folder) is None
    assert save_checkpoint(folder, at(7)) == "checkpoint-000000007.safetensors"
    loaded = load_checkpoint(folder)
    assert (loaded.step, loaded.seconds) == (7, 3.5)
    assert set(loaded.tensors) == set(at(7).tensors)
    for name, value in at(7).tensors.items():
        assert torch.equal(loaded.tensors[name], value)


def test_the_newest_two_are_kept(folder):
    folder.write("other/checkpoint-x", b"not ours")
    for step in (1, 5, 9, 12):
        save_checkpoint(folder, at(step))
        assert load_checkpoint(folder).step == step
    assert files(folder) == [checkpoint_name(9), checkpoint_name(12)]
    assert folder.exists("other/checkpoint-x")


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "empty"])
def test_a_damaged_newest_one_falls_back_to_the_one_before(folder, damage):
    for step in (1, 5, 9):
        save_checkpoint(folder, at(step))
    name = checkpoint_name(9)
    data = folder.read(name)
    if damage == "missing":
        folder.delete(name)
    else:
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        folder.write(name, {"truncated": data[:-1], "flipped": flipped, "empty": b""}[damage])
    assert load_checkpoint(folder).step == 5
    save_checkpoint(folder, at(9))
    assert load_checkpoint(folder).step == 9
    assert files(folder) == [checkpoint_name(5), checkpoint_name(9)]


def test_two_damaged_ones_are_none(folder):
    for step in (5, 9):
        save_checkpoint(folder, at(step))
        folder.write(checkpoint_name(step), b"x")
    assert load_checkpoint(folder) is None
    save_checkpoint(folder, at(3))
    assert load_checkpoint(folder).step == 3
    assert files(folder) == [checkpoint_name(3)]


def test_a_resumed_training_that_is_behind_leads_the_pointer(folder):
    """The newest was damaged: what a resumed training saves next is older than it."""
    for step in (5, 9):
        save_checkpoint(folder, at(step))
    folder.write(checkpoint_name(9), b"x")
    save_checkpoint(folder, at(7))
    assert load_checkpoint(folder).step == 7
    assert files(folder) == [checkpoint_name(5), checkpoint_name(7)]


def test_a_kill_between_the_file_and_the_pointer_is_harmless(folder, monkeypatch):
    save_checkpoint(folder, at(5))
    base = type(folder)
    write = base.write

    def killed(blobs, name, data):
        if name.endswith(POINTER):
            raise SystemExit
        write(blobs, name, data)

    monkeypatch.setattr(base, "write", killed)
    with pytest.raises(SystemExit):
        save_checkpoint(folder, at(9))
    monkeypatch.undo()
    assert folder.exists(checkpoint_name(9))
    assert load_checkpoint(folder).step == 5
    save_checkpoint(folder, at(7))
    assert load_checkpoint(folder).step == 7
    assert files(folder) == [checkpoint_name(5), checkpoint_name(7)]


def test_a_kill_before_the_pruning_is_harmless(folder, monkeypatch):
    for step in (1, 5):
        save_checkpoint(folder, at(step))
    monkeypatch.setattr(type(folder), "delete", lambda *_: (_ for _ in ()).throw(SystemExit))
    with pytest.raises(SystemExit):
        save_checkpoint(folder, at(9))
    monkeypatch.undo()
    assert load_checkpoint(folder).step == 9
    save_checkpoint(folder, at(12))
    assert files(folder) == [checkpoint_name(9), checkpoint_name(12)]


POINTERS = [
    b"",
    b"{",
    b"null",
    b"3",
    b"{}",
    b"[1]",
    b'[{"file": 1}]',
    b'[{"file": "../x", "step": 1, "seconds": 0, "sha256": ""}]',
    b"\xff",
]


@pytest.mark.parametrize("pointer", POINTERS)
def test_a_damaged_pointer_has_a_copy_and_without_it_there_is_no_checkpoint(folder, pointer):
    save_checkpoint(folder, at(5))
    folder.write(POINTER, pointer)
    assert load_checkpoint(folder).step == 5
    folder.write(COPY, pointer)
    assert load_checkpoint(folder) is None
    save_checkpoint(folder, at(6))
    assert load_checkpoint(folder).step == 6


@settings(max_examples=60, deadline=None, suppress_health_check=SHARED_STORE)
@given(place=st.integers(0, 250), bit=st.integers(0, 7))
def test_a_flipped_bit_of_the_pointer_resumes_from_no_wrong_step(folder, place, bit):
    folder.delete("")
    for step in (5, 9):
        save_checkpoint(folder, at(step))
    text = bytearray(folder.read(POINTER))
    assert len(text) > 250
    text[place] ^= 1 << bit
    folder.write(POINTER, bytes(text))
    loaded = load_checkpoint(folder)
    assert loaded is None or loaded.step == float(loaded.tensors["model.w"][0, 0])
    save_checkpoint(folder, at(12))
    assert load_checkpoint(folder).step == 12


def test_the_pointer_is_what_people_can_read(folder):
    save_checkpoint(folder, at(5))
    (entry,) = json.loads(folder.read(POINTER))["checkpoints"]
    assert entry["file"] == checkpoint_name(5)
    assert (entry["step"], entry["seconds"]) == (5, 2.5)
