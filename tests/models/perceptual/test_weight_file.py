import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from slimctl.models.perceptual.weight_file import fill, read_weight_file

STATE = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_both_formats_are_read(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else lambda a, b: save_file(a, b))(STATE, path)
    assert {name: value.tolist() for name, value in read_weight_file(path).items()} == {
        name: value.tolist() for name, value in STATE.items()
    }


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


@pytest.mark.parametrize(
    "content", [b"", b"no weights", pickle.dumps(Attack(), protocol=2), b"PK\x03\x04" + bytes(40)]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_files_are_refused_and_nothing_is_executed(tmp_path, monkeypatch, content, suffix):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no file of weights"):
        read_weight_file(path)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": 1}, {1: torch.zeros(1)}, {}])
def test_what_is_not_named_tensors_is_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(ValueError, match="no named tensors"):
        read_weight_file(path)


def test_every_tensor_that_differs_is_listed():
    layer = nn.Linear(3, 2)
    fill(layer, {name: value.double() for name, value in STATE.items()})
    assert layer.weight.dtype == torch.float32
    assert layer.weight.sum() == 6
    assert not layer.weight.requires_grad
    state = {"weight": torch.ones(3, 3), "more": torch.ones(1), "head.x": torch.ones(1)}
    with pytest.raises(ValueError, match="3 tensors differ") as caught:
        fill(nn.Linear(3, 2), state, ignored=("head.",))
    said = str(caught.value)
    assert "missing bias (2,)" in said
    assert "misshapen weight (3, 3), wanted (2, 3)" in said
    assert "unexpected more (1,)" in said
