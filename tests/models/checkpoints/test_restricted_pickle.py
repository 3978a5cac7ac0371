"""Snapshots are read without running anything from them."""

import io
import os
import pickle
import sys
from collections import OrderedDict
from types import ModuleType

import pytest
import torch
from builders import Call

from slimctl.models.checkpoints.edm_snapshot import (
    ALLOWED,
    ContainerNote,
    Inert,
    ObjectNote,
    RefusedError,
    StorageNote,
    TensorNote,
    read_pickle,
    read_tensors,
)


class Changed(Call):
    """Pickles as a call whose result then gets a state."""

    def __init__(self, state, function, *arguments):
        super().__init__(function, *arguments)
        self.state = state

    def __reduce__(self):
        return (*self.call, self.state)


@pytest.fixture
def persistence(monkeypatch):
    """EDM's module that persistent objects are pickled with, for writing them."""
    module = ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the real function must never run")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)
    return _reconstruct_persistent_obj


@pytest.fixture
def read(tmp_path):
    """Writes an object as a pickle and reads it back by the restricted reader."""

    def write_and_read(value, protocol=4):
        path = tmp_path / "snapshot.pkl"
        path.write_bytes(pickle.dumps(value, protocol))
        return read_pickle(path)

    return write_and_read


SOURCE = "raise SystemExit('the source in a snapshot was run')"


def meta(class_name, **state):
    """What a persistent object is pickled as."""
    return {"type": "class", "module_src": SOURCE, "class_name": class_name, "state": state}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_network_becomes_notes_and_tensors(read, persistence, protocol):
    weight, bias = torch.randn(3, 2), torch.nn.Parameter(torch.randn(3), requires_grad=False)
    inner = meta("Linear", _parameters={"weight": weight.T, "bias": bias}, _buffers={})
    layers = torch.nn.ModuleDict()
    layers._modules["first"] = Call(persistence, inner)
    network = meta("Net", _modules=OrderedDict(layers=layers, none=None), _parameters={})
    snapshot = read({"ema": Call(persistence, network), "kept": [1, "two"]}, protocol)
    assert snapshot["kept"] == [1, "two"]
    assert (type(snapshot["ema"]), snapshot["ema"].class_name) == (ObjectNote, "Net")
    tensors = dict(read_tensors(snapshot["ema"]))
    assert list(tensors) == ["layers.first.weight", "layers.first.bias"]
    assert torch.equal(tensors["layers.first.weight"], weight.T)
    assert torch.equal(tensors["layers.first.bias"], bias)


def test_dictionaries_of_edm_are_dictionaries(tmp_path):
    path = tmp_path / "snapshot.pkl"
    new = b"\x80\x02cdnnlib.util\nEasyDict\n)\x81"
    path.write_bytes(new + b"X\x01\x00\x00\x00aK\x01s.")
    assert read_pickle(path) == {"a": 1}
    for state in (b"}b.", b"}X\x01\x00\x00\x00aK\x01sb.", b"N}X\x01\x00\x00\x00aK\x01s\x86b."):
        path.write_bytes(new + state)
        with pytest.raises(ValueError, match="no state to set"):
            read_pickle(path)


def test_numpy_numbers_are_inert(read):
    import numpy as np

    assert isinstance(read({"lr": np.float64(1e-3)})["lr"], Inert)


@pytest.fixture
def harmless(tmp_path, monkeypatch):
    """A shell command that leaves a trace, and the check that it left none."""
    trace = tmp_path / "trace"
    before = dict(ALLOWED)
    yield f"touch {trace}"
    assert not trace.exists()
    assert dict(ALLOWED) == before


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_calls_the_shell_is_refused(read, harmless, protocol):
    with pytest.raises(RefusedError, match=r"would use posix\.system, which no snapshot"):
        read({"ema": Call(os.system, harmless)}, protocol)


@pytest.mark.parametrize("function", [eval, exec, getattr, __import__, torch.load, os.getcwd])
def test_other_callables_are_refused_by_name(read, function):
    with pytest.raises(RefusedError, match=f"{function.__module__}.{function.__name__}"):
        read(Call(function, "1"))


def test_a_callable_inside_a_known_class_is_refused(read, persistence, harmless):
    hidden = meta("EDMPrecond", _modules={"model": Call(os.system, harmless)})
    with pytest.raises(RefusedError, match=r"posix\.system"):
        read({"ema": Call(persistence, hidden)})
    as_value = meta("EDMPrecond", __call__=os.system)
    with pytest.raises(RefusedError, match=r"posix\.system"):
        read({"ema": Call(persistence, as_value)})


def test_a_callable_inside_the_bytes_of_a_storage_is_refused(read, persistence, harmless):
    inner = pickle.dumps(Call(os.system, harmless), 2)
    legacy = io.BytesIO()
    torch.save(Call(os.system, harmless), legacy, _use_new_zipfile_serialization=False)
    for data in (inner, legacy.getvalue(), b"", b"\x80\x02."):
        storage = Call(torch.storage._load_from_bytes, data)
        tensor = Call(torch._utils._rebuild_tensor_v2, storage, 0, (1,), (1,), False, {})
        note = read(Call(persistence, meta("Net", _parameters={"weight": tensor})))
        with pytest.raises(ValueError, match="no readable snapshot of EDM"):
            list(read_tensors(note))


def test_stand_ins_cannot_be_changed(read, persistence, harmless):
    state = (None, {"_call": 1, "state": 2, "__setstate__": 3, "data": b""})
    for change in (
        Changed(state, persistence, meta("Net")),
        Changed({"data": b""}, torch.storage._load_from_bytes, b""),
        Changed(state, torch._utils._rebuild_tensor_v2, None, 0, (), ()),
    ):
        with pytest.raises(ValueError, match="no readable snapshot"):
            read(change)


@pytest.mark.parametrize("name", ["_load_from_bytes", "ModuleDict", "EasyDict"])
def test_what_is_allowed_is_not_changed_through_its_name(tmp_path, name):
    module = {
        "_load_from_bytes": "torch.storage",
        "ModuleDict": "torch.nn.modules.container",
        "EasyDict": "dnnlib.util",
    }[name]
    for state in (b"}(X\x05\x00\x00\x00_callK\x01u", b"N}(X\x05\x00\x00\x00_callK\x01u\x86"):
        path = tmp_path / "forged.pkl"
        path.write_bytes(b"\x80\x02c" + f"{module}\n{name}\n".encode() + state + b"b.")
        with pytest.raises(ValueError, match="no readable snapshot"):
            read_pickle(path)
    assert not hasattr(ContainerNote, "_call")


def test_notes_cannot_be_called(persistence, tmp_path):
    path = tmp_path / "forged.pkl"
    path.write_bytes(pickle.dumps(Call(persistence, meta("Net")), 3)[:-1] + b")R.")
    with pytest.raises(ValueError, match="'ObjectNote' object is not callable"):
        read_pickle(path)


def test_a_tensor_outside_its_storage_is_refused():
    storage = torch.ones(4).__reduce_ex__(2)[1][0]
    data = storage.__reduce__()[1][0]
    assert StorageNote(data).numbers().tolist() == [1, 1, 1, 1]
    for shape, stride, offset in (((5,), (1,), 0), ((2,), (1,), 3), ((2,), (-1,), 1)):
        weight = TensorNote(StorageNote(data), offset, shape, stride)
        with pytest.raises(ValueError, match="no readable snapshot"):
            list(read_tensors(ObjectNote("Net", {"_parameters": {"weight": weight}})))


def test_modules_within_themselves_are_refused():
    note = ObjectNote("Net", {"_modules": {}})
    note.state["_modules"]["again"] = note
    with pytest.raises(ValueError, match="RecursionError"):
        list(read_tensors(note))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80\x04.", b"\x80\x04}", b"nonsense"])
def test_damaged_files_say_so(tmp_path, data):
    path = tmp_path / "damaged.pkl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="no readable snapshot of EDM"):
        read_pickle(path)


def test_options_and_random_states_are_forgotten(read):
    import argparse
    import pathlib
    import random

    import numpy as np

    beside = {
        "args": argparse.Namespace(lr=1e-4, out=pathlib.Path("x")),
        "python": random.getstate(),
        "numpy": np.random.default_rng(0),
        "array": np.arange(3.0),
        "dtype": torch.float16,
    }
    content = read({"ema": 3, **beside})
    assert content["ema"] == 3
    assert all(isinstance(content[name], Inert) for name in ("args", "array", "numpy"))


def test_a_tensor_cannot_be_larger_than_its_storage():
    data = torch.ones(4).__reduce_ex__(2)[1][0].__reduce__()[1][0]
    storage = StorageNote(data)
    big = TensorNote(storage, 0, (10**6, 10**6), (0, 0))
    with pytest.raises(ValueError, match="in 4 numbers"):
        list(read_tensors(ObjectNote("Net", {"_parameters": {"weight": big}})))
    note = TensorNote(StorageNote(data + bytes(2**20)), 0, (4,), (1,))
    many = {str(number): note for number in range(8)}
    with pytest.raises(ValueError, match="many tensors lie in the same bytes"):
        list(read_tensors(ObjectNote("Net", {"_parameters": many})))
