"""What a pickle can make us allocate is bounded by the length of its file."""

import pickle
import zipfile

import pytest
import torch

from slimctl.models.checkpoints.inert_pickle import (
    INSTRUCTIONS,
    OBJECT_INSTRUCTIONS,
    RefusedError,
    load_inert,
)
from slimctl.models.checkpoints.torch_file import read_torch_file


def find(module, name):
    raise RefusedError(f"{module}.{name}")


@pytest.fixture
def load(tmp_path):
    def read(data):
        (tmp_path / "pickle").write_bytes(data)
        with (tmp_path / "pickle").open("rb") as file:
            return load_inert(file, find, INSTRUCTIONS | OBJECT_INSTRUCTIONS)

    return read


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back(load, protocol):
    value = {"a": [1, (2.5, None), "b" * 300], "n": {"deep": [[[[True]]]]}, 3: -(2**70)}
    value["again"] = value["a"]
    assert load(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02}r\xff\xff\xff\x7f.", "entry 2147483647 of a table of 2"),
        (b"\x80\x04\x95" + (2**40).to_bytes(8, "little") + b"N.", "1,099,511,627,776 bytes"),
        (b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"ab.", "1,099,511,627,776 bytes"),
        (b"\x80\x02X\xff\xff\xff\x7fab.", "2,147,483,647 bytes"),
        (b"\x80\x02}N" + b"\x85" * 100_000 + b"Ns.", "nested more than"),
        (b"\x80\x02\x85.", "too little before it"),
    ],
    ids=["table", "frame", "bytes", "text", "depth", "stack"],
)
def test_more_than_the_file_has_is_not_begun(load, data, message):
    with pytest.raises(ValueError, match=message):
        load(data)


def test_a_long_list_is_not_deep(load):
    assert len(load(pickle.dumps(list(range(5000)), 0))) == 5000


def test_other_instructions_and_names_are_refused(load):
    with pytest.raises(RefusedError, match="INST posix system"):
        load(b"(iposix\nsystem\n.")
    with pytest.raises(RefusedError, match=r"builtins\.eval"):
        load(pickle.dumps(eval, 4))


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_of_torch_have_the_same_limits(tmp_path, is_zip):
    path, bomb = tmp_path / "weights.pth", b"\x80\x02}r\xff\xff\xff\x7f."
    torch.save({"weight": torch.ones(2)}, path, _use_new_zipfile_serialization=is_zip)
    assert torch.equal(read_torch_file(path)["weight"], torch.ones(2))
    if is_zip:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("weights/data.pkl", bomb)
    else:
        path.write_bytes(path.read_bytes()[:15] + bomb)
    with pytest.raises(ValueError, match=r"checkpoint \(ValueError: entry 2147483647 of a"):
        read_torch_file(path)
