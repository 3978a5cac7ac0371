import json
import pickle
from dataclasses import asdict

import pytest

from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator.problems import (
    DottedPlaces,
    Mistake,
    PipelineProblems,
    Place,
    Problem,
    dotted,
    listed,
    raise_problems,
)
from slimctl.orchestrator.source import parse_document

LATE = Problem("a.yaml", 31, 3, "job 'student' needs a PairSet as pairs", "use 'pairs'")
EARLY = Problem("a.yaml", 4, 9, "seed must be at least 0, not -1")
OVERRIDE = Problem("--set seed=-1", 0, 0, "seed must be at least 0, not -1")


def test_problems_are_printed_in_line_order_and_those_without_line_last():
    error = PipelineProblems(OVERRIDE, LATE, EARLY)
    assert str(error) == (
        "a.yaml:4: seed must be at least 0, not -1\n"
        "a.yaml:31: job 'student' needs a PairSet as pairs\n"
        "  fix: use 'pairs'\n"
        "--set seed=-1: seed must be at least 0, not -1"
    )
    assert error.problems == (EARLY, LATE, OVERRIDE)


def test_it_is_the_users_error_and_survives_pickling():
    error = PipelineProblems(LATE, EARLY)
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, UserError)
    assert again.exit_code == 2
    assert again.problems == error.problems
    assert str(again) == str(error)


def test_problems_serialise_for_machines():
    (problem,) = PipelineProblems(LATE).problems
    assert json.loads(json.dumps(asdict(problem))) == {
        "file": "a.yaml",
        "line": 31,
        "column": 3,
        "what": "job 'student' needs a PairSet as pairs",
        "fix": "use 'pairs'",
    }


def test_no_problems_raise_nothing_and_repeated_ones_are_told_once():
    raise_problems([])
    with pytest.raises(PipelineProblems) as caught:
        raise_problems([LATE, LATE])
    assert caught.value.problems == (LATE,)


def test_a_mistake_finds_its_place():
    mistake = Mistake(("jobs", "student", "steps"), "what", "fix")
    assert mistake.at(DottedPlaces()) == Problem("jobs.student.steps", 0, 0, "what", "fix")
    assert Mistake((), "what").at(DottedPlaces()).where == "pipeline"


def test_places_never_make_two_things_differ():
    assert DottedPlaces() == parse_document("a: 1", "f.yaml")
    assert hash(DottedPlaces()) == hash(parse_document("a: 1", "f.yaml"))
    assert DottedPlaces() != Place("f")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["a"], "'a'"),
        (["a", "b"], "'a' or 'b'"),
        (["a", "b", "c"], "'a', 'b' or 'c'"),
        (["a", "b", "c", "d", "e", "f"], "'a', 'b', 'c', 'd' or 2 more"),
    ],
)
def test_listed(names: list[str], text: str):
    assert listed(names) == text


def test_dotted():
    assert dotted(("jobs", "a", "betas", 1)) == "jobs.a.betas.1"
