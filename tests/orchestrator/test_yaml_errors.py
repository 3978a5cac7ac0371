import pytest

from slimctl.orchestrator.problems import PipelineProblems
from slimctl.orchestrator.source import parse_document


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a:\n\tb: 1", "2", "a tab indents this line"),
        ("a: @x", "1", "this is not YAML: found character '@' that cannot start any token"),
        ("name: x\njobs: a: b", "2", "a ':' stands where no key can be"),
        ("name: x\n seed: 1", "2", "a ':' stands where no key can be"),
        ("a:\n- b\n-c\n", "3", "this key has no ':'"),
        ("- a\nb: 1", "2", "this line does not line up with those above"),
        ("a: 1\nb: 'x\nc: 2\n", "2", "the quotes that open here never close"),
        (
            "a: 1\nb: {c: 1\nd: 2\n",
            "2",
            "the bracket that opens here is not closed, or a ',' is missing in it",
        ),
        ('a: "\\q"', "1", "this is not YAML: found unknown escape character 'q'"),
        ("a: * b", "1", "a name must follow this sign"),
        ("a: [1, , 2]", "1", "a value is missing here"),
        ("a: *x", "1", "this is not YAML: found undefined alias 'x'"),
        ("a: 1\n---\nb: 2", "2", "a second document begins here"),
        ("a: 1\n\u00a0 b: 2", "2", "the invisible character U+00A0 (no-break space) stands here"),
        ("b: 2\na:\u00a01\n", "2", "the invisible character U+00A0 (no-break space) stands here"),
        ("a: 1\u200b", "1", "the invisible character U+200B (zero width space) stands here"),
        ("a: \u201cx\u201d", "1", "\u201c is no quote of YAML's"),
        ("a: [\u2018x\u2019]", "1", "\u2018 is no quote of YAML's"),
        ("a: x\udce9", "1", "the byte 0xe9 is not UTF-8"),
        ("a: 1\nb: x\x07", "2", "the invisible character U+0007 is not allowed"),
    ],
)
def test_syntax_errors_are_said_in_plain_words(text: str, where: str, what: str):
    with pytest.raises(PipelineProblems) as caught:
        parse_document(text, "f.yaml")
    (problem,) = caught.value.problems
    assert problem.where == f"f.yaml:{where}"
    assert problem.what == what
    assert problem.fix


def test_odd_characters_in_quotes_and_comments_are_meant():
    document = parse_document('a: "x\u00a0\u201cy\u201d"  # \u00a0\nb: don\u2019t', "f.yaml")
    assert document.data == {"a": "x\u00a0\u201cy\u201d", "b": "don\u2019t"}
