"""Rules that hold for the whole repository."""

import ast
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from slimctl.jobs.base import errors
from slimctl.jobs.base.facts import FieldError, MissingFile
from slimctl.jobs.base.registry import kind_of
from slimctl.models.networks.presets import PRESETS
from slimctl.models.perceptual.cost import INCEPTION_MACS
from slimctl.models.solvers.spec import EDMHeunSpec
from slimctl.models.spec import Spec
from slimctl.orchestrator.pipeline import diagnostics as problems
from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems, Problem, warnings
from slimctl.orchestrator.pipeline.pipeline import Pipeline, load_pipeline, resolve
from slimctl.orchestrator.planning.graph import Graph, expectations, preflight

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "jobs", "orchestrator")
SOURCES = sorted(path for name in (*PACKAGES, "slimctl") for path in (ROOT / name).rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
MAX_FUNCTION_LINES = 60
NO_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers"}
UNPICKLERS = {"models/checkpoints/inert_pickle.py"}


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_there_is_something_to_look_at():
    assert len(SOURCES) > 100
    assert len(CONFIGS) >= 3


# Configs


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Forty labelled images and empty weight files, in place of a user's."""
    folder = tmp_path_factory.mktemp("files")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    content = []
    for image in pixels:
        held = io.BytesIO()
        Image.fromarray(image).save(held, "PNG")
        content.append({"bytes": held.getvalue(), "path": None})
    table = pyarrow.table({"image": content, "label": np.arange(40) % 4})
    (folder / "images").mkdir()
    parquet.write_table(table, folder / "images" / "train.parquet")
    for name in ("teacher.pkl", "inception.pth", "vgg16.pth", "linear.pth"):
        (folder / name).write_bytes(b"")
    return folder


PATHS = {
    "jobs.data.source": "images",
    "jobs.teacher.path": "teacher.pkl",
    "jobs.features.weights": "inception.pth",
    "jobs.one_step.distance.weights": "vgg16.pth",
    "jobs.one_step.distance.linear": "linear.pth",
}
"""Fields that name files of the user, and what is put there."""
PAPER = ("cifar10.yaml", "ffhq64.yaml", "imagenet64.yaml")
TEACHERS = ("edm_teacher.yaml", "slimflow_teacher.yaml", "diffusers_teacher.yaml")
OWN_IMAGES = (
    "my_images.yaml", "cifar10_smoke.yaml", "ablation_cifar10.yaml", "recipes_cifar16.yaml",
    *TEACHERS, *PAPER, "dit256.yaml",
)  # fmt: skip


CHOSEN_AND_MEASURED = ("msd_digits.yaml", "msd_digits_full.yaml", "sweep_sizes.yaml")
"""Pipelines whose tables were made before a second feature network could choose."""


def load_config(config: Path, files: Path, storage: Path, *more: str) -> Pipeline:
    named = ["jobs.data.source"] if config.name in OWN_IMAGES else []
    named = ["jobs.data.source", "jobs.teacher.path"] if config.name in TEACHERS else named
    named = list(PATHS) if config.name in PAPER else named
    if config.name == "dit256.yaml":
        named = ["jobs.data.source", "jobs.teacher.path", "jobs.features.weights"]
    overrides = [f"{name}={files / PATHS[name]}" for name in named]
    if config.name in ("imagenet64.yaml", "dit256.yaml"):
        overrides += ["jobs.data.classes=4", "jobs.teacher.classes=4"]
    return resolve(load_pipeline(config, [*overrides, *more], str(storage)).pipeline)


@pytest.mark.parametrize("config", CONFIGS, ids=short)
def test_every_config_is_right(config, files, tmp_path):
    """It loads, its graph is whole, and its data can be read."""
    pipeline = load_config(config, files, tmp_path)
    graph = Graph.of(pipeline)
    assert len(graph.order) == len(pipeline.specs)
    facts = preflight(pipeline, graph, read_here(pipeline))
    if config.name in OWN_IMAGES:  # those have forty images here
        return
    said = warnings(pipeline, graph, facts)
    assert all("choose by another" in one.fix or "add an evaluate" in one.fix for one in said)
    assert bool(said) == (config.name in CHOSEN_AND_MEASURED)


def read_here(pipeline: Pipeline) -> list[str]:
    """All jobs but the teacher's import: a checkpoint of hundreds of MB is not made up here."""
    kinds = {name: kind_of(spec) for name, spec in pipeline.specs.items()}
    return [name for name, kind in kinds.items() if kind != "import_teacher"]


@pytest.mark.parametrize("config", PAPER)
def test_every_published_student_can_be_chosen(config, files, tmp_path):
    family = config.removesuffix(".yaml")
    students = [name for name in PRESETS if name.startswith(f"{family}-") and "1rf" not in name]
    assert len(students) >= 2
    for name in students:
        choice = f"jobs.student.network.preset={name}"
        pipeline = load_config(ROOT / "configs" / config, files, tmp_path, choice)
        preflight(pipeline, Graph.of(pipeline), read_here(pipeline))
        dropout = {"dropout": 0.13 if family == "imagenet64" else 0.15}
        assert pipeline.jobs["student"].network == PRESETS[name].network.model_copy(update=dropout)


@pytest.mark.parametrize("config", PAPER)
def test_the_papers_settings(config, files, tmp_path):
    jobs = load_config(ROOT / "configs" / config, files, tmp_path).jobs
    student, one_step = jobs["student"], jobs["one_step"]
    assert (student.steps, one_step.steps) == (800_000, 400_000)
    assert student.schedule().length == 300_000
    assert jobs["pairs"].solver == EDMHeunSpec(steps=18)
    for job in (student, one_step):
        assert (job.batch_size, job.learning_rate, job.precision) == (128, 2e-4, "float32")
        assert (job.gradient_clip, job.ema_decay, job.adam_betas) == (1.0, 0.999999, (0.9, 0.999))
        assert (job.adam_epsilon, job.decay, job.workers) == (1e-8, "constant", "auto")
    assert (student.warmup, one_step.warmup) == (5000, 0)
    assert (student.flip, one_step.flip) == (None, False)  # None: as flips are valid, which is
    assert jobs["teacher"].flip_valid
    assert (student.time.kind, student.time.low, student.time.high) == ("uniform", 1e-3, 1.0)
    assert student.network.dropout == (0.13 if config == "imagenet64.yaml" else 0.15)
    assert one_step.start.job == one_step.guide.job == "student"  # the same network, so its dropout
    assert (one_step.two_step_times, one_step.two_step_batch) == ((0.2, 0.8), None)
    counts = {"cifar10.yaml": 100_000, "ffhq64.yaml": 200_000, "imagenet64.yaml": 400_000}
    assert jobs["pairs"].count == counts[config]
    assert (one_step.distance.kind, one_step.distance.size) == ("lpips", 64)
    assert (one_step.pair_weight, one_step.two_step_weight) == (1, 1)
    assert (jobs["one_step_1"].samples, jobs["one_step_1"].draws) == (50_000, 3)


@pytest.mark.parametrize(
    ("config", "student", "parameters"),
    [
        ("cifar10.yaml", "cifar10-15.7m", 15_707_235),
        ("cifar10.yaml", "cifar10-3.4m", 3_437_123),
        ("ffhq64.yaml", "ffhq64-27.9m", 27_906_179),
        ("imagenet64.yaml", "imagenet64-80.7m", 80_685_315),
    ],
)
def test_the_cost_is_known_before_the_files_are_there(config, student, parameters):
    choice = [f"jobs.student.network.preset={student}"]
    pipeline = resolve(load_pipeline(ROOT / "configs" / config, choice, draft=True).pipeline)
    graph = Graph.of(pipeline)
    facts, missing = expectations(pipeline.specs, graph.edges, graph.order)
    assert {mistake.path[1] for mistake in missing} == {"data", "features", "teacher", "one_step"}
    preset = PRESETS[student]
    for name, flop in (
        ("student", 6 * preset.macs * 800_000 * 128),
        ("one_step", (12 + 2) * preset.macs * 400_000 * 128 + 6 * 1_252_786_176 * 400_000 * 256),
        ("one_step_1", 2 * (preset.macs + INCEPTION_MACS) * 150_000),
    ):
        work = pipeline.specs[name].work(
            {field: facts[source] for field, source in graph.edges[name]}
        )
        assert (work.parameters, work.macs, work.flop) == (parameters, preset.macs, flop)


@pytest.mark.parametrize("config", ["my_images.yaml", "cifar10_smoke.yaml", *PAPER])
def test_a_config_without_its_files_says_what_to_do(config):
    with pytest.raises(PipelineProblems) as caught:
        load_pipeline(ROOT / "configs" / config)
    problems = caught.value.problems
    assert len(problems) == (4 if config in PAPER else 1)
    assert all(problem.line > 0 and problem.fix for problem in problems)


# Files


def test_no_function_is_long():
    """A file ends where its idea ends; a function is read at once."""
    lengths = {
        f"{short(path)}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


def test_files_are_named_after_what_is_in_them():
    tests = (ROOT / "tests").rglob("*.py")
    files = [*SOURCES, *BENCHMARKS, *tests]
    parts = {path: {path.stem, *path.relative_to(ROOT).parent.parts} for path in files}
    named = {path: {part.removeprefix("test_") for part in found} for path, found in parts.items()}
    assert [short(path) for path, found in named.items() if found & NO_NAMES] == []


def test_every_module_says_what_it_is():
    silent = [short(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


# Errors


def exceptions() -> Iterator[type[Exception]]:
    for module in (errors, problems):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Exception):
                yield value
    yield FieldError
    yield MissingFile


@pytest.mark.parametrize("kind", sorted(set(exceptions()), key=lambda kind: kind.__name__))
def test_every_error_survives_pickling(kind):
    """Ray sends errors by pickle; what does not survive arrives as something else."""
    if kind is PipelineProblems:
        error = kind(Problem("a.yaml", 3, 1, "wrong", "repair"), Problem("a.yaml", 1, 1, "bad"))
    else:
        error = kind("configs/a.yaml:3", "is wrong", "repair it")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)


# What may be imported


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("slimctl.orchestrator.cli.main", "torch ray mlflow sklearn pyarrow matplotlib numpy"),
        ("slimctl.orchestrator.running.supervisor", "torch ray mlflow"),
        ("slimctl.orchestrator.running.submission", "torch ray mlflow"),
        ("slimctl.models.networks.spec", "torch ray mlflow"),
        (
            "slimctl.models.checkpoints.model_format",
            "ray mlflow ruamel typer pyarrow slimctl.jobs slimctl.orchestrator",
        ),
    ],
)
def test_heavy_libraries_are_loaded_where_they_are_used(module, heavy):
    code = f"import sys, {module}; print(*[n for n in {heavy.split()!r} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


PLANTED = {
    "orchestrator looks down": ("models/ema.py", "import slimctl.jobs.base.errors"),
    "kinds above the machinery": ("jobs/base/errors.py", "import slimctl.jobs.storage.blobs"),
    "in the orchestrator": (
        "orchestrator/pipeline/pipeline.py",
        "import slimctl.orchestrator.planning.graph",
    ),
    "job kinds do not know each other": (
        "jobs/kinds/distill.py",
        "import slimctl.jobs.kinds.evaluate",
    ),
    "models is mathematics": ("models/ema.py", "import ray"),
}


@pytest.fixture(scope="module")
def copy_of_the_code(tmp_path_factory) -> Path:
    """The packages and the settings, in a folder where they can be spoiled."""
    folder = tmp_path_factory.mktemp("copy")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "slimctl", folder / "slimctl", symlinks=True)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.mark.parametrize("contract", PLANTED)
def test_each_contract_of_imports_catches_a_planted_violation(copy_of_the_code, contract):
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("import-linter is not installed beside this Python")
    file, line = PLANTED[contract]
    path = copy_of_the_code / file
    text = path.read_text()
    path.write_text(f"{text}\n{line}\n")
    try:
        done = subprocess.run(
            [program], capture_output=True, text=True, check=False, cwd=copy_of_the_code,
            env={**os.environ, "PYTHONPATH": str(copy_of_the_code), "COLUMNS": "200"}, timeout=60,
        )  # fmt: skip
    finally:
        path.write_text(text)
    assert done.returncode != 0
    broken = [said for said in done.stdout.splitlines() if said.endswith("BROKEN")]
    assert any(said.startswith(contract) for said in broken), done.stdout
    assert len(broken) == 1


def test_the_contracts_are_all_tried():
    settings = (ROOT / "pyproject.toml").read_text()
    names = [
        json.loads(line.partition("=")[2])
        for line in settings.split("[tool.importlinter]")[1].splitlines()
        if line.startswith("name =")
    ]
    assert len(names) == len(PLANTED)
    assert all(any(name.startswith(start) for start in PLANTED) for name in names)


# Nothing that is read runs code


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """(dotted name, call) for each call of a dotted name in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def runs_code(name: str, keywords: dict[str | None, str]) -> bool:
    """Whether a call could execute what stands in a file."""
    if name == "torch.load":
        return keywords.get("weights_only") != "True"
    if name == "np.load":
        return keywords.get("allow_pickle", "False") != "False"
    return keywords.get("shell") == "True" or name in {
        "pickle.load", "pickle.loads", "pickle.dump", "pickle.dumps", "torch.save", "eval", "exec",
        "yaml.load", "dill.load", "joblib.load", "cloudpickle.loads", "os.system",
    }  # fmt: skip


def test_no_file_that_is_read_runs_code():
    found = [
        f"{short(path)}:{call.lineno} {name}"
        for path in (*SOURCES, *BENCHMARKS)
        for name, call in calls(path)
        if runs_code(name, {word.arg: ast.unparse(word.value) for word in call.keywords})
    ]
    assert found == []


def test_only_the_restricted_reader_unpickles():
    users = [short(path) for path in SOURCES if "Unpickler" in path.read_text()]
    assert set(users) == UNPICKLERS
    for name in UNPICKLERS:
        tree = ast.parse((ROOT / name).read_text())
        readers = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, node.bases)
        ]
        assert len(readers) == 1
        methods = {each.name for each in readers[0].body if isinstance(each, ast.FunctionDef)}
        assert "find_class" in methods


def test_specs_are_frozen():
    assert Spec.model_config["frozen"]
    assert Spec.model_config["extra"] == "forbid"
