import copy
import importlib
import os
import pickle
import pkgutil

import pytest

import slimctl.jobs
from slimctl.jobs.base.errors import (
    BadDevice,
    CollectiveHung,
    DamagedArtifact,
    JobFailed,
    OutOfMemory,
    Preempted,
    SlimError,
    TrainingDiverged,
    UserError,
    WorkLost,
    printable,
)
from slimctl.jobs.base.facts import FieldError

EXIT_CODES = {
    SlimError: 1,
    UserError: 2,
    DamagedArtifact: 3,
    JobFailed: 4,
    TrainingDiverged: 4,
    OutOfMemory: 4,
    WorkLost: 4,
    Preempted: 4,
    CollectiveHung: 4,
    BadDevice: 4,
}


def every_module():
    for module in pkgutil.walk_packages(slimctl.jobs.__path__, "slimctl.jobs."):
        yield importlib.import_module(module.name)


def every_subclass(cls):
    return {cls}.union(*(every_subclass(sub) for sub in cls.__subclasses__()))


@pytest.mark.parametrize("cls", EXIT_CODES, ids=lambda cls: cls.__name__)
def test_errors_survive_pickling_with_their_fields(cls):
    for error in (cls("a.yaml:3", "it is 'x'", "use y"), cls("", "broken")):
        for other in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert type(other) is cls
            assert (other.where, other.what, other.fix) == (error.where, error.what, error.fix)
            assert str(other) == str(error)
            assert other.exit_code == EXIT_CODES[cls]


def test_every_error_of_the_package_is_in_the_table():
    modules = list(every_module())
    assert len(modules) > 40
    mine = {cls for cls in every_subclass(SlimError) if cls.__module__.startswith("slimctl.jobs.")}
    assert mine == set(EXIT_CODES)


def test_errors_say_where_what_and_fix():
    assert str(UserError("a.yaml:3", "it is 'x'", "use y")) == "a.yaml:3: it is 'x'\n  fix: use y"
    assert str(UserError("", "it is 'x'")) == "it is 'x'"
    assert str(UserError("", "it is 'x'", "use y")) == "it is 'x'\n  fix: use y"


def test_field_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(FieldError("network.blocks", "is 0", "make it 1")))
    assert (error.field, error.what, error.fix) == ("network.blocks", "is 0", "make it 1")
    assert isinstance(error, ValueError)


def test_names_that_are_not_utf_8_are_reported_in_any_terminal():
    error = UserError(os.fsdecode(b"caf\xe9"), "has '\udce9' and \ud800", "mv caf\udce9 cafe")
    assert str(error) == "caf\\xe9: has '\\xe9' and \\ud800\n  fix: mv caf\\xe9 cafe"
    assert printable("\u732b") == "\u732b"
