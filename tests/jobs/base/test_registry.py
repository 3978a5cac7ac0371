import subprocess
import sys
from types import ModuleType

import pytest
from pydantic import ValidationError

from slimctl.jobs.base import registry
from slimctl.jobs.base.artifacts import HANDLES, Dataset, Handle
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.keys import series_id, split_id
from slimctl.jobs.base.registry import (
    kind_names,
    kind_of,
    load_kind,
    nearest,
    parse_job,
)
from slimctl.jobs.base.spec import JobSpec, output_type
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.storage.store import Store

BUILT_IN = {
    "analytic_flow",
    "anneal_reflow",
    "distill",
    "evaluate",
    "generate_pairs",
    "load_dataset",
    "train_features",
    "train_flow",
}


class MakeStone(JobSpec):
    size: int = 1

    def run(self, context: JobContext) -> Dataset:
        raise NotImplementedError


def test_the_kinds_are_the_modules():
    assert set(kind_names()) >= BUILT_IN
    assert list(kind_names()) == sorted(kind_names())


@pytest.mark.parametrize("kind", kind_names())
def test_every_kind_loads_and_knows_its_name(kind):
    cls = load_kind(kind)
    assert issubclass(cls, JobSpec)
    assert kind_of(cls) == kind
    assert output_type(cls).__name__ in HANDLES
    assert cls.__doc__


@pytest.mark.parametrize("kind", kind_names())
def test_every_field_says_what_it_is(kind):
    silent = [name for name, f in load_kind(kind).model_fields.items() if not f.description]
    assert silent == []


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(UserError) as error:
        load_kind("generate_pair")
    assert error.value.what == "there is no job kind 'generate_pair'"
    assert error.value.fix == "did you mean 'generate_pairs'?"
    with pytest.raises(UserError) as error:
        load_kind("xyzzy")
    assert "fit_step_grid, generate_pairs" in error.value.fix


def test_a_name_of_nothing_that_is_near():
    assert nearest("b", ["z", "y"]) == "use one of: y, z"


def test_packages_add_kinds(install_kinds):
    install_kinds(make_stone=MakeStone)
    assert "make_stone" in kind_names()
    assert load_kind("make_stone") is MakeStone
    assert kind_of(MakeStone()) == "make_stone"
    assert parse_job("make_stone", {"size": 3}) == MakeStone(size=3)


class Stone(Handle):
    weight: float


class MakeHeavyStone(JobSpec):
    def run(self, context: JobContext) -> Stone:
        raise NotImplementedError


def test_results_of_another_package_outlive_its_absence(install_kinds, tmp_path):
    kind, key = "make-heavy-stone", "0123456789abcdef01234567"
    install_kinds(**{kind: MakeHeavyStone})
    store, artifact = Store(str(tmp_path)), f"{kind}-{key}"
    causes = {"kind": kind, "version": 1, "spec": {}, "inputs": {}, "wall_s": 1, "device_s": 1}
    made = store.commit(artifact, Stone(weight=2.5), store.stage(), causes)
    assert store.load(artifact, Stone) == made
    install_kinds()
    assert store.state(artifact) == "done"
    with pytest.raises(UserError, match="Stone of the job kind 'make-heavy-stone', which is not"):
        store.load_any(artifact)
    install_kinds(**{kind: MakeHeavyStone})
    assert store.load_any(artifact) == made
    assert split_id(f"{artifact}-500") == (kind, key)
    assert series_id(MakeHeavyStone(), artifact) == artifact


def test_a_class_that_no_package_names_has_no_kind():
    with pytest.raises(TypeError, match=r"MakeStone is not registered under 'slimctl\.kinds'"):
        kind_of(MakeStone)


def test_a_module_with_two_kinds_is_refused(monkeypatch):
    module = ModuleType("slimctl.jobs.kinds.twice")
    for name in ("A", "B"):
        body = {"__module__": module.__name__, "run": MakeStone.run}
        setattr(module, name, type(name, (JobSpec,), body))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(registry, "_builtin_names", lambda: ("twice",))
    with pytest.raises(TypeError, match=r"jobs/kinds/twice\.py must define exactly one JobSpec"):
        load_kind("twice")


def test_fields_are_parsed_by_the_kinds_own_class():
    spec = parse_job("generate_pairs", {"flow": "teacher", "count": 5})
    assert isinstance(spec, GeneratePairs)
    assert parse_job("generate_pairs", spec.model_dump(mode="json")) == spec
    with pytest.raises(ValidationError, match="shards"):
        parse_job("generate_pairs", {"flow": "teacher", "count": 5, "shards": 3})


def test_loading_the_kinds_imports_neither_torch_nor_ray():
    code = (
        "import sys; from slimctl.jobs.base.registry import kind_names, load_kind;"
        "[load_kind(name) for name in kind_names()];"
        "print({'torch', 'ray', 'mlflow', 'pyarrow', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
