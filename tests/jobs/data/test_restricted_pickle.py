import io
import os
import pickle
import pickletools

import numpy as np
import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.data.restricted_pickle import ALLOWED, ArrayRecord, read_pickle


@pytest.fixture
def refused(tmp_path):
    """refused(bytes) -> the error's text; fails if the pickle can be read."""

    def read(data):
        path = tmp_path / "data_batch_1"
        path.write_bytes(data)
        with pytest.raises(UserError) as error:
            read_pickle(path)
        assert error.value.where == str(path)
        return error.value.what

    return read


@pytest.fixture
def loaded(tmp_path):
    def read(data):
        path = tmp_path / "data_batch_1"
        path.write_bytes(data)
        return read_pickle(path)

    return read


class Malicious:
    """Unpickled in the ordinary way, this calls `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path, refused, protocol):
    mark = tmp_path / "was-here"
    data = pickle.dumps({"data": Malicious(os.mkdir, str(mark))}, protocol)
    assert f"{os.mkdir.__module__}.mkdir" in refused(data)
    assert not mark.exists()
    pickle.loads(data)
    assert mark.exists(), "the pickle must be one that would have run"


@pytest.mark.parametrize(
    "call",
    [
        (eval, "__import__('os').system('false')"),
        (exec, "raise SystemExit"),
        (getattr, [], "append"),
        (__import__, "os"),
        (os.system, "false"),
        (np.load, "x.npy"),
        (np.zeros, 3),
        (bytearray, 3),
    ],
)
def test_whatever_else_is_named_is_refused(refused, call):
    what = refused(pickle.dumps(Malicious(*call)))
    assert call[0].__name__ in what
    assert "it was not run" in what


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'false'\ntR.",
        b"(S'false'\nios\nsystem\n.",
        b"(cos\nsystem\nS'false'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x05false\x85R.",
        b"\x80\x04\x8c\x05numpy\x8c\x0dcore.os.system\x93.",
        b"\x80\x02cnumpy\nndarray.__class__\n.",
        b"\x80\x02Pnumber\n.",
        b"\x80\x02\x82\x01.",
    ],
)
def test_every_way_to_name_a_thing_is_closed(refused, code):
    refused(code)


def test_the_stand_ins_cannot_be_changed(refused):
    """BUILD would write into an object's dictionary or slots; they have none to write to."""
    for module, name in ALLOWED:
        named = b"\x80\x02c" + f"{module}\n{name}\n".encode()
        refused(named + b"}X\x08\x00\x00\x00__call__K\x01sb.")
        refused(named + b"N}X\x08\x00\x00\x00__call__K\x01s\x86b.")
        refused(named + b"N}X\x09\x00\x00\x00__class__K\x01s\x86b.")


def test_arrays_of_objects_are_refused(refused):
    assert "'O8'" in refused(pickle.dumps(np.array([{}], dtype=object), 4))


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_is_read_back(loaded, order):
    array = np.asarray(np.arange(12, dtype=np.uint8).reshape(3, 4), order=order)
    content = loaded(pickle.dumps({b"data": array, "n": [1, "a", b"b", None, 2.5]}, 4))
    assert content["n"] == [1, "a", b"b", None, 2.5]
    assert isinstance(content[b"data"], ArrayRecord)
    np.testing.assert_array_equal(content[b"data"].array(), array)


def test_python_2s_own_pickle_is_read(loaded):
    """{'data': uint8 2 x 3, 'labels': [6, 9]} in the opcodes and names of Python 2 and numpy 1."""
    code = (
        b"\x80\x02}q\x01(U\x04datacnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\n"
        b"q\x03K\x00\x85U\x01b\x87Rq\x04(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01"
        b"\x87Rq\x06(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x02"
        b"\xfd\xfe\xfftbU\x06labels]q\x07(K\x06K\teu."
    )
    pickletools.dis(code, out=io.StringIO())
    content = loaded(code)
    np.testing.assert_array_equal(content[b"data"].array(), [[0, 1, 2], [253, 254, 255]])
    assert content[b"labels"] == [6, 9]


@pytest.mark.parametrize("state", [None, (), (1, (2, 2), None, False, b"abcd"), (1, 2, 3, 4, "x")])
def test_a_record_with_a_bad_state_is_no_array(state):
    record = ArrayRecord()
    record.__setstate__(state)
    with pytest.raises((TypeError, ValueError)):
        record.array()


def test_damaged_pickles_are_reported(refused):
    data = pickle.dumps({b"labels": list(range(100)), b"data": np.zeros(30, np.uint8)}, 4)
    for length in range(0, len(data), 11):
        assert "no readable pickle" in refused(data[:length])


def test_random_changes_never_run_anything(tmp_path):
    """Either a plain value or a UserError comes of it, whatever the bytes are."""
    whole = pickle.dumps({b"labels": [1, 2, 3], b"data": np.zeros(30, np.uint8)}, 4)
    draw = np.random.default_rng(0)
    path = tmp_path / "x"
    refused = 0
    for _ in range(1000):
        broken = np.frombuffer(whole, np.uint8).copy()
        broken[draw.integers(0, len(whole), 2)] = draw.integers(0, 256, 2)
        path.write_bytes(broken.tobytes())
        try:
            read_pickle(path)
        except UserError:
            refused += 1
    assert 300 < refused < 1000


def test_a_table_that_would_fill_the_memory_is_not_made(refused):
    """LONG_BINPUT makes a table of twice the number it is given: here of 64 GiB."""
    assert "entry 4294967295 of a table of 2" in refused(b"\x80\x02}r\xff\xff\xff\xff.")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_honest_numbers_of_every_protocol_pass(loaded, protocol):
    content = {
        "labels": list(range(300)),
        "names": ["a"] * 300,
        "odd": [None, True, -1, 2**40, 0.5],
    }
    read = loaded(pickle.dumps(content, protocol))
    assert {_text(key): value for key, value in read.items()}["labels"] == list(range(300))


def _text(value):
    return value.decode() if isinstance(value, bytes) else value
