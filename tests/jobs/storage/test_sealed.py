import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimctl.jobs.storage.sealed import seal, unseal

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
FIELDS = st.dictionaries(st.text(), PLAIN | st.lists(PLAIN), min_size=1)


@given(FIELDS)
def test_what_is_sealed_comes_back(fields):
    data = seal(fields)
    assert unseal(data) == fields
    assert b"\n" not in data


@given(FIELDS, st.data())
def test_no_change_is_believed(fields, draw):
    data = seal(fields)
    at = draw.draw(st.integers(0, len(data) - 1))
    for spoiled in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], data + b" "):
        with pytest.raises(ValueError, match="not what was written"):
            unseal(spoiled)


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff" * 100, b'{"a": 1}'])
def test_what_was_never_sealed_is_refused(data):
    with pytest.raises(ValueError, match="not what was written"):
        unseal(data)
