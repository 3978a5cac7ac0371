from hypothesis import given, settings
from hypothesis import strategies as st

from slimctl.orchestrator.source import parse_document, yaml_text

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(
        ["null", "no", "1e-4", "0x1", "~", "<<", "- a", "a: b", "#", "é\u2028\x85", ""]
    ),
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(data=st.dictionaries(keys, values, max_size=4))
def test_what_is_written_is_read_back(data: dict[str, object]):
    text = yaml_text(data)
    if data:
        assert parse_document(text, "f.yaml").data == data


def test_layout():
    data = {
        "name": "x y",
        "jobs": {"a": {"kind": "load", "rate": 1e-5, "net": {"k": [1, "b"]}}, "b": {}},
    }
    assert yaml_text(data) == (
        'name: "x y"\njobs:\n  a:\n    kind: load\n    rate: 1e-05\n'
        "    net:\n      k: [1, b]\n  b: {}\n"
    )
