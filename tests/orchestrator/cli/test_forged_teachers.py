"""Files that would run something are refused before anything starts, and run nothing."""

import io
import os
import pickle
import sys
from types import ModuleType

import pytest
import torch
from builders import Call


@pytest.fixture
def note(monkeypatch):
    """Pickles as an object of EDM's: its class, its source and its state."""
    module = ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the real function must never run")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)

    def make(class_name, **state):
        source = "import os; os.system('touch trace')"
        meta = {"type": "class", "class_name": class_name, "module_src": source, "state": state}
        return Call(_reconstruct_persistent_obj, meta)

    return make


def legacy(value):
    data = io.BytesIO()
    torch.save(value, data, _use_new_zipfile_serialization=False)
    return data.getvalue()


def shell(harm, note):
    return pickle.dumps({"ema": harm}), "network.pkl"


def hidden_in_a_module(harm, note):
    wrapper = note("EDMPrecond", _modules={"model": note("SongUNet", _parameters={"w": harm})})
    return pickle.dumps({"ema": wrapper}), "network.pkl"


def hidden_in_another_entry(harm, note):
    wrapper = note("EDMPrecond", _modules={"model": note("SongUNet", _parameters={})})
    return pickle.dumps({"ema": wrapper, "loss_fn": note("EDMLoss", sigma=harm)}), "network.pkl"


def hidden_in_a_storage(harm, note):
    storage = Call(torch.storage._load_from_bytes, pickle.dumps(harm, 2))
    weight = Call(torch._utils._rebuild_tensor_v2, storage, 0, (1,), (1,), False, {})
    network = note("SongUNet", _parameters={"weight": weight})
    return pickle.dumps({"ema": note("EDMPrecond", _modules={"model": network})}), "network.pkl"


def hidden_in_a_checkpoint(harm, note):
    data = io.BytesIO()
    torch.save({"model": {"module.all_modules.0.weight": torch.zeros(1)}, "step": harm}, data)
    return data.getvalue(), "checkpoint.pth"


def hidden_in_an_old_checkpoint(harm, note):
    return legacy({"model": {}, "ema": harm}), "checkpoint.pth"


@pytest.mark.parametrize(
    "forge",
    [
        shell,
        hidden_in_a_module,
        hidden_in_another_entry,
        hidden_in_a_storage,
        hidden_in_a_checkpoint,
        hidden_in_an_old_checkpoint,
    ],
)
@pytest.mark.parametrize("verb", ["check", "submit"])
def test_a_file_that_would_call_the_shell_ends_with_exit_2(slimctl, tmp_path, note, forge, verb):
    trace = tmp_path / "trace"
    content, name = forge(Call(os.system, f"touch {trace}"), note)
    (tmp_path / name).write_bytes(content)
    file = tmp_path / "forged.yaml"
    job = f"{{kind: import_teacher, path: {tmp_path / name}}}"
    file.write_text(f"name: forged\njobs:\n  teacher: {job}\n")
    ended = slimctl(verb, file)
    assert ended.code == 2
    assert f"{file}:3: job 'teacher', path: {tmp_path / name}: " in ended.err
    assert "fix: " in ended.err
    assert "Traceback" not in ended.err
    assert not trace.exists()
    if forge is not hidden_in_a_storage:
        assert "its pickle would use posix.system" in ended.err
        assert "nothing was run" in ended.err
