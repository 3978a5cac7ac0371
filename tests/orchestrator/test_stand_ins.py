import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import pytest
from pydantic import Field, ValidationError, model_validator

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, FieldError, UntoldError
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import JobSpec
from slimctl.models.networks.registry import AnyNetworkSpec
from slimctl.orchestrator.stand_ins import (
    WRONG,
    contradictions,
    holds_wrong,
    meant_keys,
    prepared,
    stand_in,
    wrong_fields,
)

NETWORK = {"kind": "song_unet", "channels": 8}


class Piece(JobSpec):
    """A job with rules about its fields."""

    flow: Ref[Flow]
    flows: tuple[Ref[Flow], ...] = ()
    network: AnyNetworkSpec | None = None
    least: Annotated[int, Field(ge=0)] = 1
    most: int = 9
    mode: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_mode(cls, data: Any) -> Any:
        if data.get("mode") == "bad":
            raise ValueError("bad mode")
        return {"most": 3, **data} if data.get("mode") == "three" else data

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.least > self.most:
            raise FieldError("least", f"least {self.least} is above most {self.most}")
        return self

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.mode == "odd":
            raise ValueError("odd is taken")
        return self

    def run(self, context: JobContext) -> Flow:
        raise NotImplementedError


def failed(fields: Mapping[str, Any]) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Piece.model_validate(fields)
    return caught.value


def test_keys_that_surely_mean_a_field():
    given = ["flwo", "most", "mosst", "network", "leest", "least", "ziegel"]
    assert meant_keys(given, Piece) == {
        "flwo": "flow",
        "mosst": None,  # most is given, too
        "leest": None,
        "ziegel": None,
    }
    assert meant_keys(["flow", "flws"], Piece) == {"flws": "flows"}


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"flow": "a", "least": -1}, {"least"}),
        ({"flwo": "a", "most": "x"}, {"flow", "most"}),
        ({"flow": "a", "network": {**NETWORK, "channels": 0}}, {"network"}),
        ({"flow": "a", "netwrk": {}, "least": -1}, {"network", "least"}),
        ({"flow": "a", "ziegel": 1}, None),
        ({"flow": "a", "least": 10}, set()),
    ],
)
def test_what_is_wrong_with_a_job(fields, wrong):
    assert wrong_fields(Piece, fields, failed(fields), []) == wrong


def test_what_pydantic_lets_pass_is_wrong_too():
    assert wrong_fields(Piece, {"flow": "a", "least": True}, None, [("least",)]) == {"least"}


def test_a_stand_in_holds_what_is_right():
    fields = {"flow": "a", "flows": "b", "network": NETWORK, "least": -1, "mode": "three"}
    complete = prepared(Piece, fields)
    assert complete == {**fields, "flows": ["b"], "most": 3}
    job = stand_in(Piece, complete, {"least"})
    assert (job.flow, job.flows) == (Ref("a"), (Ref("b"),))
    assert (job.network.channels, job.most, job.mode) == (8, 3, "three")
    assert job.least is WRONG
    assert prepared(Piece, {"flow": "a", "mode": "bad"}) is None


def test_rules_are_judged_by_what_is_right():
    def broken(fields: Mapping[str, Any], *wrong: str) -> list[str]:
        return [str(error.args[-1]) for error in contradictions(stand_in(Piece, fields, wrong))]

    assert broken({"flow": "a", "least": 10, "mode": "odd"}, "network") == ["", "odd is taken"]
    assert broken({"flow": "a", "mode": "odd"}, "least") == ["odd is taken"]
    assert broken({"flow": "a", "least": 10}, "mode") == [""]
    assert broken({"flow": "a"}, "least", "mode") == []


QUESTIONS: list[Callable[[Any], Any]] = [
    bool, str, int, float, len, list, hash, abs, Path, range, "{}".format,
    lambda value: value.anything, lambda value: value(), lambda value: value[0],
    lambda value: 1 in value, lambda value: value == 1, lambda value: value != 1,
    lambda value: value < 1, lambda value: value >= 1, lambda value: 100 % value,
    lambda value: value % 100, lambda value: max(1, value), lambda value: value or 8,
    lambda value: value * 2, lambda value: 2 - value, operator.index,
]  # fmt: skip


@pytest.mark.parametrize("ask", QUESTIONS)
def test_a_value_that_is_wrong_tells_nothing(ask):
    with pytest.raises(UntoldError):
        ask(WRONG)


def test_but_it_can_be_held():
    assert WRONG is not None
    assert Facts(count=WRONG).count is WRONG
    assert holds_wrong(Facts(count=WRONG))
    assert holds_wrong(stand_in(Piece, {"flow": "a"}, {"least"}))
    assert not holds_wrong(Facts(count=1))
    assert not isinstance(WRONG, (Ref, str))
    assert repr(WRONG) == "WRONG"
