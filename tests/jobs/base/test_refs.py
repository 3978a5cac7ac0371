import copy
import json
import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from slimctl.jobs.base.artifacts import Dataset, Flow, Generator, PairSet
from slimctl.jobs.base.refs import Ref, iter_refs, ref_types, takes_many
from slimctl.models.solvers.spec import EulerSpec, SolverSpec
from slimctl.models.spec import Spec


class Holder(Spec):
    pairs: Ref[PairSet]
    model: Ref[Flow | Generator] | None = None
    solver: SolverSpec | Ref[Dataset] | None = None
    name: str = ""


def test_a_name_or_a_ref_becomes_a_ref():
    by_name = Holder.model_validate({"pairs": "p", "model": "m"})
    by_ref = Holder(pairs=Ref("p"), model=Ref("m"))
    assert by_name == by_ref
    assert by_name.pairs == Ref("p")
    assert {by_name.pairs, Ref("p"), Ref("q")} == {Ref("q"), Ref("p")}
    assert Ref("p") != "p"
    assert repr(Ref("p")) == "Ref('p')"


@pytest.mark.parametrize("value", ["", 3, None, ["p"], {"job": "p"}, True])
def test_nothing_else_does(value):
    with pytest.raises(ValidationError):
        Holder.model_validate({"pairs": value})


def test_a_spec_of_references_round_trips():
    holder = Holder(pairs=Ref("p"), solver=EulerSpec(steps=3))
    assert json.loads(holder.model_dump_json())["pairs"] == "p"
    assert holder.model_dump(mode="json")["pairs"] == "p"
    assert Holder.model_validate_json(holder.model_dump_json()) == holder
    assert Holder.model_validate(holder.model_dump()) == holder
    assert pickle.loads(pickle.dumps(holder)) == holder
    assert copy.deepcopy(holder) == holder
    assert hash(holder.pairs) == hash(copy.deepcopy(holder).pairs)


def test_a_field_takes_a_spec_or_another_jobs_result():
    named = Holder.model_validate({"pairs": "p", "solver": "grid"})
    assert named.solver == Ref("grid")
    given = Holder.model_validate({"pairs": "p", "solver": {"kind": "euler", "steps": 2}})
    assert given.solver == EulerSpec(steps=2)


@pytest.mark.parametrize(
    ("annotation", "types"),
    [
        (Ref[PairSet], (PairSet,)),
        (Ref[Flow | Generator], (Flow, Generator)),
        (Ref[Flow] | None, (Flow,)),
        (EulerSpec | Ref[PairSet] | None, (PairSet,)),
        (str, ()),
        (int | None, ()),
        (Any, ()),
        (tuple[Ref[Flow], ...], (Flow,)),
    ],
)
def test_ref_types(annotation, types):
    assert ref_types(annotation) == types


def test_references_are_found_in_the_order_of_the_fields():
    holder = Holder.model_validate({"solver": "grid", "model": "m", "pairs": "p", "name": "p"})
    assert iter_refs(holder) == [("pairs", Ref("p")), ("model", Ref("m")), ("solver", Ref("grid"))]


def test_the_schema_of_a_reference_is_a_name():
    properties = Holder.model_json_schema()["properties"]
    assert properties["pairs"] == {"minLength": 1, "title": "Pairs", "type": "string"}


class Many(Spec):
    flows: tuple[Ref[Flow], ...]
    one: Ref[Flow] | None = None


@pytest.mark.parametrize(
    ("annotation", "many"),
    [
        (Ref[Flow], False),
        (Ref[Flow] | None, False),
        (tuple[Ref[Flow], ...], True),
        (list[Ref[Flow]] | None, True),
        (tuple[int, ...], False),
    ],
)
def test_which_fields_take_many(annotation, many):
    assert takes_many(annotation) == many


def test_references_in_a_field_that_names_many_are_numbered():
    holder = Many(flows=["a", Ref("b")], one="c")
    assert iter_refs(holder) == [("flows.0", Ref("a")), ("flows.1", Ref("b")), ("one", Ref("c"))]
    assert holder.model_dump() == {"flows": ("a", "b"), "one": "c"}
