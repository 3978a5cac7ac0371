"""Each way in which a field can be wrong, and the sentence that the user reads."""

from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, ValidationError, model_validator

from slimctl.jobs.base.artifacts import Flow, PairSet
from slimctl.jobs.base.facts import FieldError
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.models.flows.spec import AnnealingSchedule, LinearAnnealing
from slimctl.models.networks.registry import AnyNetworkSpec
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.solvers.spec import SolverSpec
from slimctl.models.spec import Spec
from slimctl.orchestrator.pipeline.explain import (
    NAME_PATTERN,
    Subject,
    explain,
    fields_at,
    kinds_of,
    models_in,
    name_fix,
    shown,
    truth_mistakes,
    types_in,
    value_at,
)


class Everything(Spec):
    count: int = Field(default=1, ge=1, le=9)
    """Number of things."""
    share: float = Field(default=0.5, gt=0, lt=1)
    even: int = Field(default=2, multiple_of=2)
    flag: bool | None = None
    word: str = ""
    name: str = Field(default="a", pattern=NAME_PATTERN)
    code: str = Field(default="AB", pattern="^[A-Z]+$", min_length=1, max_length=3)
    decay: Literal["constant", "cosine"] = "constant"
    channels: Literal[1, 3] | None = None
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates."""
    levels: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1,), min_length=1)
    table: dict[str, int] | None = None
    flow: Ref[Flow] | None = None
    """The teacher."""
    pairs: Ref[PairSet] | LinearAnnealing | None = None
    annealing: AnnealingSchedule = LinearAnnealing(length=1)
    network: AnyNetworkSpec | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.count == 7:
            raise ValueError("7 is taken\n  fix: use 8")
        if self.count == 8:
            raise FieldError("annealing.length", "8 is too long", "use 7")
        return self


def said(**fields: object) -> list[tuple[str, str, str]]:
    """(path, what, fix) of each mistake."""
    subject = Subject(Everything, fields, ("jobs", "x"), "job 'x': ", "everything")
    with pytest.raises(ValidationError) as caught:
        Everything.model_validate(fields)
    mistakes = explain(caught.value, subject)
    assert all(mistake.path[:2] == ("jobs", "x") for mistake in mistakes)
    return [
        (".".join(map(str, one.path[2:])), one.what.removeprefix("job 'x': "), one.fix)
        for one in mistakes
    ]


@pytest.mark.parametrize(
    ("field", "value", "what", "fix"),
    [
        (
            "count",
            "many",
            "count must be a whole number, not 'many'",
            "set count to a whole number (Number of things)",
        ),
        ("count", 1.5, "count must be a whole number, not 1.5", None),
        ("count", None, "count must be a whole number, not null", None),
        ("count", 0, "count must be at least 1, not 0", None),
        ("count", 10, "count must be at most 9, not 10", None),
        ("count", [1], "count must be a whole number, not [1]", None),
        ("count", {"a": 1}, "count must be a whole number, not a mapping", None),
        ("share", 0, "share must be above 0, not 0", "set share to above 0"),
        ("share", 1.0, "share must be below 1, not 1", None),
        ("share", float("nan"), "share must be a finite number, not nan", None),
        ("share", "x", "share must be a number, not 'x'", None),
        ("even", 3, "even must be a multiple of 2, not 3", None),
        ("flag", "maybe", "flag must be true or false, not 'maybe'", None),
        ("word", 2020, "word must be text, not 2020", "put it in quotes: '2020'"),
        ("word", True, "word must be text, not true", "put it in quotes: 'true'"),
        ("code", "a", "code must be text like ^[A-Z]+$, not 'a'", None),
        ("code", "", "code must not be empty", "set code to something"),
        ("code", "AAAA", "code must be of length 3 or less, not 'AAAA'", None),
        (
            "decay",
            "cosin",
            "decay must be 'constant' or 'cosine', not 'cosin'",
            "did you mean 'cosine'?",
        ),
        (
            "decay",
            "linear",
            "decay must be 'constant' or 'cosine', not 'linear'",
            "set decay to 'constant' or 'cosine'",
        ),
        ("channels", 2, "channels must be 1 or 3, not 2", None),
        ("workers", 0, "workers must be 'auto' or at least 1, not 0", None),
        (
            "workers",
            "atuo",
            "workers must be 'auto' or a whole number, not 'atuo'",
            "did you mean 'auto'?",
        ),
        ("betas", [0.9], "betas has too few items, 1", "add the rest (Decay rates)"),
        ("betas", [0, 1, 2], "betas must be of length 2 or less, not [0, 1, 2]", None),
        ("betas", 0.9, "betas must be a list, not 0.9", None),
        ("levels", [], "levels must not be empty", None),
        ("levels", [1, 0], "levels.1 must be at least 1, not 0", "set levels.1 to at least 1"),
        ("table", [1], "table must be a mapping, not [1]", None),
        ("table", {"a": "b"}, "table.a must be a whole number, not 'b'", None),
        (
            "flow",
            5,
            "flow must be the name of a job, not 5",
            "set flow to the name of a job (The teacher)",
        ),
        ("annealing", "linear", "annealing must be a mapping with 'kind', not 'linear'", None),
        ("annealing", {"kind": "linear"}, "annealing.length is missing", None),
        (
            "annealing",
            {"length": 5},
            "annealing needs a kind",
            "add 'kind: ...', one of linear, cosine, exponential, constant",
        ),
        (
            "annealing",
            {"kind": "cosin", "length": 5},
            "annealing has no kind 'cosin'",
            "did you mean 'cosine'?",
        ),
        (
            "annealing",
            {"kind": "constant", "vaule": 0},
            "annealing has no 'vaule'",
            "did you mean 'value'?",
        ),
        (
            "network",
            {"kind": "song_unet", "chanels": 8},
            "network has no 'chanels', and 'channels' is missing",
            "did you mean 'channels'?",
        ),
        ("network", {"kind": "song_unet", "channels": 0}, None, None),
        (
            "network",
            {"preset": "cifar10-7.0m", "dropuot": 0.1},
            "network has no 'dropuot'",
            "did you mean 'dropout'?",
        ),
        ("count", 7, "7 is taken", "use 8"),
        ("count", 8, "8 is too long", "use 7"),
    ],
)
def test_one_wrong_field(field: str, value: object, what: str | None, fix: str | None):
    ((_, was, advice),) = said(**{field: value})
    assert advice
    assert what is None or was == what
    assert fix is None or advice == fix


def test_a_kind_written_where_a_mapping_belongs():
    ((_, _, fix),) = said(annealing="linaer")
    assert fix == "write '{kind: linear, ...}'"


def test_the_alternative_that_fits_furthest_is_meant():
    assert [what for _, what, _ in said(pairs={"kind": "linear", "length": 0})] == [
        "pairs.length must be at least 1, not 0"
    ]


def test_the_path_points_at_what_is_wrong():
    wrong = said(annealing={"kind": "x"}, network={"kind": "song_unet", "channels": 8, "no": 1})
    assert [path for path, _, _ in wrong] == ["network.no", "annealing.kind"]
    assert said(annealing={"kind": "linear"})[0][0] == "annealing"
    assert said(count=8)[0][0] == "annealing.length"


def test_a_misspelt_required_key_is_one_mistake_and_others_are_their_own():
    class Needs(Spec):
        steps: int
        batch: int
        rate: float

    data = {"setps": 1, "colour": 2}
    with pytest.raises(ValidationError) as caught:
        Needs.model_validate(data)
    assert [(one.what, one.fix) for one in explain(caught.value, Subject(Needs, data))] == [
        ("a pipeline has no 'setps', and 'steps' is missing", "did you mean 'steps'?"),
        ("a pipeline has no 'colour'", "use one of: batch, rate, steps"),
        ("batch is missing", "add 'batch: ...'"),
        ("rate is missing", "add 'rate: ...'"),
    ]


def test_a_name_that_is_not_allowed_gets_one_that_is():
    ((_, what, fix),) = said(name="my run!")
    assert what.endswith("the first one a letter or digit, not 'my run!'")
    assert fix == "call it 'my-run'"
    assert name_fix("!!") == "choose a name such as 'student'"


def test_truth_values_are_no_numbers():
    data = {"count": True, "flag": True, "workers": True, "levels": [1, True], "word": "x"}
    data |= {"annealing": {"kind": "linear", "length": True}, "network": None}
    found = truth_mistakes(Subject(Everything, data))
    assert sorted(mistake.what for mistake in found) == [
        "annealing.length must be a number, not true",
        "count must be a number, not true",
        "levels.1 must be a number, not true",
        "workers must be a number, not true",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (False, "false"),
        (1e-12, "1e-12"),
        (0.25, "0.25"),
        ("it", "'it'"),
        ({}, "{}"),
        ("x" * 100, "'" + "x" * 56 + "..."),
    ],
)
def test_values_are_shown_as_the_file_has_them(value: object, text: str):
    assert shown(value) == text


# What only follows from another mistake


def test_a_list_is_not_too_short_because_of_what_is_in_it():
    assert [path for path, _, _ in said(levels=[0, 1, -1])] == ["levels.0", "levels.2"]
    assert [path for path, _, _ in said(levels=[])] == ["levels"]


@pytest.mark.parametrize(
    ("pairs", "paths"),
    [
        ({"kind": "edm_heun", "sigma_min": 3, "sigma_max": 2}, ["pairs"]),
        (
            {"kind": "grid", "times": [0, 2], "stps": 3},
            ["pairs.stps", "pairs", "pairs.times.1"],
        ),
    ],
)
def test_of_a_union_the_alternative_of_the_kind_is_reported_and_all_of_it(pairs, paths):
    class Holder(Spec):
        pairs: SolverSpec | Ref[PairSet]

    with pytest.raises(ValidationError) as caught:
        Holder.model_validate({"pairs": pairs})
    mistakes = explain(caught.value, Subject(Holder, {"pairs": pairs}))
    assert [".".join(map(str, one.path)) for one in mistakes] == paths


@pytest.mark.parametrize(
    ("fields", "fix"),
    [
        ({"share": "0,25"}, "write it with a point: 0.25"),
        ({"share": "1/1000"}, "nothing is computed here: write 0.001"),
        ({"count": "None"}, "write null, or leave it out"),
    ],
)
def test_values_of_other_languages_are_answered_with_what_to_write(fields, fix):
    with pytest.raises(ValidationError) as caught:
        Everything.model_validate(fields)
    (mistake,) = explain(caught.value, Subject(Everything, fields))
    assert fix in f"{mistake.what}\n{mistake.fix}"


def test_a_key_that_ran_into_its_value():
    class Small(Spec):
        source: str

    with pytest.raises(ValidationError) as caught:
        Small.model_validate({"source:digits": None})
    (mistake,) = explain(caught.value, Subject(Small, {"source:digits": None}))
    assert mistake.fix == "write 'source: digits', with a space after the colon"


def names_at(data: dict[str, object], *path: str | int) -> set[str]:
    return set(fields_at(Subject(AnnealReflow, data), path))


def test_fields_of_the_alternative_that_the_kind_names():
    data = {"annealing": {"kind": "constant"}, "network": {"kind": "song_unet"}}
    assert names_at(data) == set(AnnealReflow.model_fields)
    assert names_at(data, "annealing") == {"kind", "value"}
    assert names_at(data, "network") == set(SongUNetSpec.model_fields)


def test_without_a_known_kind_every_alternative_counts():
    assert names_at({"annealing": {}}, "annealing") == {"kind", "value", "length"}
    assert "channels" in names_at({"network": {"preset": "x"}}, "network")


def test_values_have_no_fields():
    assert names_at({"steps": 5}, "steps") == set()
    assert names_at({"nothing": {"a": 1}}, "nothing", "a") == set()
    assert names_at({"adam_betas": [0.1]}, "adam_betas", 0) == set()


def test_kinds_and_models():
    info = AnnealReflow.model_fields["time"]
    assert kinds_of(info) == ("uniform", "u_shaped", "karras", "log_normal")
    assert SongUNetSpec in models_in(AnnealReflow.model_fields["network"].annotation)
    assert models_in(int | None) == []


def test_types_and_values():
    assert types_in(dict[str, int] | None) >= {dict[str, int], str, int, type(None)}
    assert value_at({"a": [1, {"b": 2}]}, ("a", 1, "b")) == 2
