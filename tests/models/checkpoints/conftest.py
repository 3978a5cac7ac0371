"""Files as SlimFlow and EDM write them."""

import pickle
import sys
from types import ModuleType

import numpy as np
import pytest
import torch


def _checkpoint_of(model, average):
    """What SlimFlow saves, given two states in its naming."""
    return {
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(2e-4), "params": [0]}]},
        "model": model,
        "ema": {"decay": 0.9, "num_updates": np.int64(3), "shadow_params": list(average.values())},
        "step": 3,
    }


@pytest.fixture(name="checkpoint_of")
def _checkpoint_fixture():
    return _checkpoint_of


@pytest.fixture
def save(tmp_path):
    def save_checkpoint(content, **options):
        torch.save(content, tmp_path / "checkpoint.pth", **options)
        return tmp_path / "checkpoint.pth"

    return save_checkpoint


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """Writes a state in EDM's naming as EDM's snapshots are."""
    module = ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("the real function must never run")

    class Persistent:
        def __init__(self, class_name, state):
            self.meta = {"class_name": class_name, "state": state, "module_src": "", "version": 6}

        def __reduce__(self):
            return _reconstruct_persistent_obj, (self.meta,)

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)

    def nested(class_name, tensors):
        own, inner = {}, {}
        for name, value in tensors.items():
            first, _, rest = name.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = value
            else:
                own[name] = value
        modules = {name: nested("Layer", part) for name, part in inner.items()}
        return Persistent(class_name, {"_parameters": own, "_buffers": {}, "_modules": modules})

    def write(class_name, tensors, wrapper="EDMPrecond", inner="model", **attributes):
        path = tmp_path / "network-snapshot.pkl"
        state = {"_modules": {inner: nested(class_name, tensors)}, **attributes}
        path.write_bytes(pickle.dumps({"ema": Persistent(wrapper, state), "loss_fn": None}))
        return path

    return write
