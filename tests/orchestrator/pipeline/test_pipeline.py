import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from slimctl.jobs.base.artifacts import Dataset
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import BY_CONTENT, JobSpec
from slimctl.jobs.kinds.analytic_flow import AnalyticFlow
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.kinds.load_dataset import LoadDataset
from slimctl.models.solvers.spec import EulerSpec, HeunSpec, RK45Spec
from slimctl.models.spec import Spec
from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems, Problem
from slimctl.orchestrator.pipeline.pipeline import (
    STORAGE_VARIABLE,
    Pipeline,
    load_pipeline,
    parse_pipeline,
    resolve,
    to_data,
    to_yaml,
)

TEXT = """\
name: digits
seed: 3
jobs:
  data:     {kind: load_dataset, source: digits}
  features: {kind: train_features, data: data, seed: 9}
  teacher:
    kind: train_flow
    data: data
    network: {kind: song_unet, channels: 32, channel_multipliers: [1, 2]}
    steps: 3000
  pairs:
    {kind: generate_pairs, flow: teacher, count: 20000, solver: {kind: rk45, tolerance: 1e-4}}
  student:
    kind: anneal_reflow
    pairs: pairs
    network: {kind: song_unet, channels: 16, channel_multipliers: [1, 2]}
    annealing: {kind: linear, length: 1000}
    steps: 3000
  one_step: {kind: distill, pairs: pairs, start: student, guide: student, steps: 3000}
  quality:
    {kind: evaluate, model: one_step, data: data, features: features, samples: 5000}
"""


def in_python(**changes: Any) -> Pipeline:
    fields: dict[str, Any] = {
        "name": "digits",
        "jobs": {
            "data": LoadDataset(source="digits"),
            "flow": AnalyticFlow(data=Ref("data")),
            "pairs": GeneratePairs(flow=Ref("flow"), count=10),
        },
    }
    return Pipeline(**{**fields, **changes})


def reported_in_python(**changes: Any) -> str:
    with pytest.raises(PipelineProblems) as caught:
        in_python(**changes)
    return str(caught.value)


def test_a_file_is_read(tmp_path: Path):
    path = tmp_path / "digits.yaml"
    path.write_text(TEXT)
    loaded = load_pipeline(path)
    assert loaded.pipeline.jobs["pairs"].solver == RK45Spec(kind="rk45", tolerance=1e-4)
    assert loaded.pipeline.jobs["one_step"].start == Ref("student")
    assert loaded.document.place(("jobs", "one_step", "guide"))[1:] == (19, 59)
    assert loaded.pipeline.places is loaded.document


def test_python_and_a_file_give_equal_pipelines():
    text = "name: digits\njobs:\n  data: {kind: load_dataset, source: digits}\n"
    text += "  flow: {kind: analytic_flow, data: data}\n"
    text += "  pairs: {kind: generate_pairs, flow: flow, count: 10}\n"
    assert parse_pipeline(text, "f.yaml").pipeline == in_python()
    assert in_python() != in_python(seed=1)


def test_mistakes_in_python_are_reported_by_path():
    assert reported_in_python(
        name="a b",
        jobs={
            "data": LoadDataset(source="digits"),
            "pairs": GeneratePairs(flow=Ref("data"), count=10),
            "more": {"kind": "generate_pairs", "flow": "flow", "count": 0},
        },
    ) == (
        "name: name must be 1 to 64 letters, digits, '_', '-' or '.', the first one a letter or "
        "digit, not 'a b'\n"
        "  fix: call it 'a-b'\n"
        "jobs.more.count: job 'more': count must be at least 1, not 0\n"
        "  fix: set count to at least 1 (Number of pairs)\n"
        "jobs.pairs.flow: job 'pairs' needs a Flow as flow, but 'data' makes a Dataset\n"
        "  fix: add a job that makes a Flow (kind: analytic_flow or anneal_reflow or "
        "import_teacher or match_teacher or mean_flow or train_flow)\n"
        "jobs.more.flow: job 'more' needs 'flow' as flow, but there is no such job\n"
        "  fix: add a job that makes a Flow (kind: analytic_flow or anneal_reflow or "
        "import_teacher or match_teacher or mean_flow or train_flow)"
    )
    assert reported_in_python(jobs={}) == (
        "jobs: there are no jobs\n  fix: add one: 'data: {kind: load_dataset, ...}'"
    )
    with pytest.raises(PipelineProblems, match=r"name is missing"):
        Pipeline.model_validate({})
    with pytest.raises(PipelineProblems, match=r"pipeline: a pipeline must be a mapping, not 5"):
        Pipeline.model_validate(5)


def test_a_pipeline_is_validated_once_and_cannot_be_changed():
    pipeline = in_python()
    assert Pipeline.model_validate(pipeline) is pipeline
    with pytest.raises(ValueError, match="frozen"):
        pipeline.seed = 5


def test_a_copy_with_other_jobs_runs_those_and_is_checked():
    pipeline = in_python()
    fewer = {name: pipeline.jobs[name] for name in ("data", "flow")}
    copy = pipeline.model_copy(update={"jobs": fewer})
    assert set(copy.specs) == set(fewer)
    assert copy == in_python(jobs=fewer)
    assert set(pipeline.model_copy(update={"seed": 7}).specs) == {"data", "flow", "pairs"}
    with pytest.raises(PipelineProblems, match=r"needs 'data' as data, but there is no such job"):
        pipeline.model_copy(update={"jobs": {"flow": pipeline.jobs["flow"]}})


def test_it_survives_pickling_with_its_places():
    pipeline = parse_pipeline(TEXT, "f.yaml").pipeline
    again = pickle.loads(pickle.dumps(pipeline))
    assert again == pipeline
    assert again.places.place(("seed",)) == ("f.yaml", 2, 1)


def test_where_results_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(STORAGE_VARIABLE, raising=False)
    named = TEXT + "storage: ./file\n"
    assert parse_pipeline(TEXT, "f").pipeline.storage == "./slim-store"
    assert parse_pipeline(named, "f").pipeline.storage == "./file"
    monkeypatch.setenv(STORAGE_VARIABLE, "./variable")
    assert parse_pipeline(TEXT, "f").pipeline.storage == "./variable"
    assert parse_pipeline(named, "f").pipeline.storage == "./file"
    assert parse_pipeline(named, "f", storage="./option").pipeline.storage == "./option"
    assert parse_pipeline(named, "f", ["storage=./set"]).pipeline.storage == "./set"
    with pytest.raises(PipelineProblems, match=r"^--storage: storage must not be empty"):
        parse_pipeline(named, "f", storage="")


def test_resolving_fills_in_seeds():
    pipeline = parse_pipeline(TEXT, "f.yaml").pipeline
    resolved = resolve(pipeline)
    seeds = {name: getattr(spec, "seed", "none") for name, spec in resolved.jobs.items()}
    assert seeds.pop("data") == "none"
    assert seeds.pop("features") == 9
    assert set(seeds.values()) == {3}
    assert pipeline.jobs["teacher"].seed is None
    assert resolved.places is pipeline.places
    assert resolve(resolved) == resolved


class Inner(Spec):
    weights: Annotated[str | None, BY_CONTENT] = None


class ReadFiles(JobSpec):
    source: Annotated[Literal["digits"] | str, BY_CONTENT] = "digits"
    plain: str = "there"
    inner: Inner = Inner()

    def run(self, context: JobContext) -> Dataset:
        raise NotImplementedError


def test_resolving_makes_paths_absolute_where_something_is(
    install_kinds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    install_kinds(read_files=ReadFiles)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("there", "digits"):
        Path(name).mkdir()

    def resolved(source: str, weights: str | None = None) -> ReadFiles:
        spec = ReadFiles(source=source, inner=Inner(weights=weights))
        found = resolve(Pipeline(name="x", jobs={"a": spec})).jobs["a"]
        assert isinstance(found, ReadFiles)
        return found

    assert resolved("there").source == f"{tmp_path}/there"
    assert resolved("there").plain == "there"
    assert resolved("~/there").source == f"{tmp_path}/there"
    assert resolved("there/*.png").source == f"{tmp_path}/there/*.png"
    assert resolved("nowhere/*.png").source == "nowhere/*.png"
    assert resolved("nowhere").source == "nowhere"
    assert resolved("digits").source == "digits"
    assert resolved("./digits").source == f"{tmp_path}/digits"
    assert resolved("s3://bucket/x").source == "s3://bucket/x"
    assert resolved("a\0b").source == "a\0b"
    assert resolved("digits", "there").inner.weights == f"{tmp_path}/there"


def test_a_resolved_pipeline_is_written_and_read_back():
    for pipeline in (in_python(), resolve(parse_pipeline(TEXT, "f.yaml").pipeline)):
        assert parse_pipeline(to_yaml(pipeline), "again.yaml").pipeline == pipeline
        assert Pipeline.model_validate(to_data(pipeline)) == pipeline
        assert Pipeline.model_validate(json.loads(json.dumps(to_data(pipeline)))) == pipeline
        assert list(pipeline.jobs) == list(to_data(pipeline)["jobs"])


solvers = st.one_of(
    st.builds(EulerSpec, steps=st.integers(1, 10**9)),
    st.builds(HeunSpec, steps=st.integers(1, 9), last_step=st.sampled_from(["heun", "euler"])),
    st.builds(RK45Spec, tolerance=st.floats(1e-12, 1.0)),
)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")


@settings(deadline=None, max_examples=60)
@given(
    name=names,
    job=names.filter(lambda name: name not in ("flow", "pairs")),
    storage=texts,
    tracking=st.none() | texts,
    seed=st.integers(0, 2**63 - 1),
    count=st.integers(1, 2**63 - 1),
    solver=solvers,
)
def test_any_pipeline_is_written_and_read_back(name, job, storage, tracking, seed, count, solver):
    pipeline = Pipeline(
        name=name,
        storage=storage,
        tracking=tracking,
        seed=seed,
        jobs={
            job: LoadDataset(source="digits"),
            "flow": AnalyticFlow(data=Ref(job)),
            "pairs": GeneratePairs(flow=Ref("flow"), count=count, solver=solver),
        },
    )
    assert parse_pipeline(to_yaml(pipeline), "f.yaml").pipeline == pipeline


words = st.sampled_from(
    [
        *("name", "seed", "jobs", "storage", "kind", "data", "flow", "pairs", "network", "solver"),
        *("annealing", "steps", "count", "source", "preset", "load_dataset", "train_flow"),
        *("generate_pairs", "distill", "evaluate", "anneal_reflow", "song_unet", "rk45", "linear"),
        *("channels", "channel_multipliers", "adam_betas", "cifar10-7.0m", "<<"),
    ]
)
anything = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-3, 2**70), st.floats(), words, st.text(max_size=4)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=5)),
    max_leaves=25,
)
jobs_like = st.dictionaries(
    words,
    st.builds(
        lambda kind, fields: {"kind": kind, **fields},
        words,
        st.dictionaries(words, anything, max_size=6),
    ),
    max_size=4,
)


pipeline_like = st.builds(
    lambda jobs, rest: {"name": "x", **(rest if isinstance(rest, dict) else {}), "jobs": jobs},
    jobs_like,
    anything,
)


@settings(deadline=None, max_examples=300)
@given(data=pipeline_like | anything)
@example(data={"kind": "kind"})
@example(data={"name": "x", "jobs": {"name": {"kind": "\n"}}})
def test_nothing_but_problems_comes_of_any_data(data: object):
    text = json.dumps(data).replace("Infinity", ".inf").replace("NaN", ".nan")
    found: list[Problem] = []
    for read in (lambda: parse_pipeline(text, "f.yaml"), lambda: Pipeline.model_validate(data)):
        try:
            read()
        except PipelineProblems as error:
            found += error.problems
    assert all(problem.what and "\n" not in f"{problem.what}{problem.fix}" for problem in found)


def test_reading_imports_nothing_heavy_and_only_the_kinds_named(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text("name: x\njobs: {data: {kind: load_dataset, source: digits}}")
    program = """
import sys
from slimctl.orchestrator.planning.graph import Graph
from slimctl.orchestrator.pipeline.pipeline import load_pipeline, resolve, to_yaml
pipeline = resolve(load_pipeline(sys.argv[1]).pipeline)
Graph.of(pipeline)
to_yaml(pipeline)
from slimctl.orchestrator.pipeline import schema
print(*sorted(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split())
    heavy = {"torch", "ray", "mlflow", "numpy", "pyarrow", "typer", "rich", "scipy", "sklearn"}
    assert not heavy & loaded
    kinds = {name for name in loaded if name.startswith("slimctl.jobs.kinds.")}
    assert kinds == {"slimctl.jobs.kinds.load_dataset"}
