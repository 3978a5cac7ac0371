"""A table of broken pipelines with all that the user reads about each."""

from typing import Any

import pytest

from slimctl.jobs.base.artifacts import Dataset, Flow
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import JobSpec
from slimctl.jobs.kinds.load_dataset import LoadDataset
from slimctl.orchestrator.pipeline.diagnostics import Mistake, PipelineProblems, warnings
from slimctl.orchestrator.pipeline.link import MAX_SEARCHES, link, read_jobs
from slimctl.orchestrator.pipeline.pipeline import Pipeline, parse_pipeline, resolve
from slimctl.orchestrator.planning.graph import Graph, preflight

HEAD = "name: x\njobs:\n"
DATA = "  data: {kind: load_dataset, source: digits}\n"
NETWORK = "network: {kind: song_unet, channels: 8, channel_multipliers: [1]}"
TEACHER = f"  teacher: {{kind: train_flow, data: data, steps: 10, {NETWORK}}}\n"
PAIRS = "  pairs: {kind: generate_pairs, flow: teacher, count: 10}\n"


def said(text: str) -> str:
    with pytest.raises(PipelineProblems) as caught:
        parse_pipeline(text, "f.yaml")
    return str(caught.value)


def mistakes_of(jobs: dict[str, Any]) -> list[Mistake]:
    read = read_jobs(jobs)
    return [*read.mistakes, *link(read).mistakes]


CASES = {
    "unknown kind": (
        HEAD + "  data: {kind: load_datasets, source: digits}\n",
        (
            "f.yaml:3: job 'data': there is no job kind 'load_datasets'\n"
            "  fix: did you mean 'load_dataset'?"
        ),
    ),
    "misspelt key of kind": (
        HEAD + "  data:\n    source: digits\n    knd: load_dataset\n",
        "f.yaml:5: job 'data' has no kind\n  fix: write 'kind' instead of 'knd'",
    ),
    "kind of the wrong type": (
        HEAD + "  data:\n    kind: [load_dataset]\n",
        "f.yaml:4: job 'data': kind must be the name of a job kind, not ['load_dataset']",
    ),
    "no mapping": (
        HEAD + "  data: digits\n  b:\n" + TEACHER,
        (
            "f.yaml:3: job 'data' must be a mapping with 'kind', not 'digits'\n"
            "  fix: write 'data: {kind: load_dataset, ...}'\n"
            "f.yaml:4: job 'b' must be a mapping with 'kind', not null\n"
            "  fix: write 'b: {kind: load_dataset, ...}'"
        ),
    ),
    "wrong type of artifact": (
        HEAD
        + DATA
        + TEACHER
        + PAIRS
        + f"  student:\n    kind: anneal_reflow\n    pairs: teacher\n    steps: 1\n    {NETWORK}\n",
        (
            "f.yaml:8: job 'student' needs a PairSet as pairs, but 'teacher' makes a Flow\n"
            "  fix: use 'pairs'"
        ),
    ),
    "one of two types": (
        HEAD + DATA + "  quality: {kind: evaluate, model: data, data: data, features: data}\n",
        (
            "f.yaml:4: job 'quality' needs a Flow or a Generator or a Fleet as model, but 'data' "
            "makes a Dataset\n"
            "  fix: add a job that makes a Flow or a Generator or a Fleet (kind: analytic_flow or "
            "anneal_reflow or assemble_fleet or consistency or distill or import_teacher or "
            "match_distribution or "
            "match_teacher or mean_flow or train_flow)\n"
            "f.yaml:4: job 'quality' needs a FeatureNet as features, but 'data' makes a Dataset\n"
            "  fix: add a job that makes a FeatureNet (kind: "
            "import_features or inception_features or train_features)"
        ),
    ),
    "unknown job": (
        HEAD + DATA + TEACHER + "  pairs: {kind: generate_pairs, flow: techer, count: 10}\n",
        (
            "f.yaml:5: job 'pairs' needs 'techer' as flow, but there is no such job\n"
            "  fix: did you mean 'teacher'?"
        ),
    ),
    "unknown job unlike any": (
        HEAD + DATA + TEACHER + "  pairs: {kind: generate_pairs, flow: zzz, count: 10}\n",
        "f.yaml:5: job 'pairs' needs 'zzz' as flow, but there is no such job\n  fix: use 'teacher'",
    ),
    "a broken job still counts for the references": (
        HEAD
        + DATA
        + f"  teacher: {{kind: train_flow, data: dta, steps: 0, {NETWORK}}}\n"
        + "  pairs: {kind: generate_pairs, flow: tacher, count: 10}\n"
        + "  more: {kind: generate_pairs, flow: teacher, count: 10}\n",
        (
            "f.yaml:4: job 'teacher' needs 'dta' as data, but there is no such job\n"
            "  fix: did you mean 'data'?\n"
            "f.yaml:4: job 'teacher': steps must be at least 1, not 0\n"
            "  fix: set steps to at least 1 (Optimizer steps)\n"
            "f.yaml:5: job 'pairs' needs 'tacher' as flow, but there is no such job\n"
            "  fix: did you mean 'teacher'?"
        ),
    ),
    "itself": (
        HEAD + DATA + TEACHER + "  pairs: {kind: generate_pairs, flow: pairs, count: 10}\n",
        "f.yaml:5: job 'pairs' needs its own result as flow\n  fix: use 'teacher'",
    ),
    "a cycle, and no advice that makes another": (
        HEAD
        + "  a: {kind: generate_pairs, flow: b, count: 10}\n"
        + f"  b: {{kind: anneal_reflow, pairs: a, steps: 1, {NETWORK}}}\n"
        + "  c: {kind: generate_pairs, flow: a, count: 10}\n",
        (
            "f.yaml:3: job 'a' needs its own result in the end: a -> b -> a\n"
            "  fix: change 'jobs.a.flow' or 'jobs.b.pairs'\n"
            "f.yaml:5: job 'c' needs a Flow as flow, but 'a' makes a PairSet\n"
            "  fix: use 'b'"
        ),
    ),
    "names": (
        HEAD + "  my data: {kind: load_dataset, source: digits}\n",
        (
            "f.yaml:3: a job's name must be 1 to 64 letters, digits, '_', '-' or '.', the first "
            "one a letter or digit, not 'my data'\n"
            "  fix: call it 'my-data'"
        ),
    ),
    "no jobs": (
        "name: x\njobs: {}\n",
        "f.yaml:2: there are no jobs\n  fix: add one: 'data: {kind: load_dataset, ...}'",
    ),
    "jobs left empty": (
        "name: x\njobs:\nseed: -1\n",
        (
            "f.yaml:2: there are no jobs\n"
            "  fix: add one: 'data: {kind: load_dataset, ...}'\n"
            "f.yaml:3: seed must be at least 0, not -1\n"
            "  fix: set seed to at least 0 (Seed of the jobs that name none)"
        ),
    ),
    "misspelt jobs": (
        "name: x\njob: {}\n",
        "f.yaml:2: a pipeline has no 'job', and 'jobs' is missing\n  fix: did you mean 'jobs'?",
    ),
    "jobs as a list": (
        "name: x\njobs:\n- kind: load_dataset\n",
        "f.yaml:2: jobs must be a mapping, not [{'kind': 'load_dataset'}]",
    ),
    "nothing there": ("seed: 1\n", "f.yaml:1: name is missing"),
    "head": (
        "name: 5\nstorage: ''\ntracking: []\nseed: true\nsize: 1\njobs:\n" + DATA,
        (
            "f.yaml:1: name must be text, not 5\n"
            "  fix: put it in quotes: '5'\n"
            "f.yaml:2: storage must not be empty\n"
            "  fix: set storage to something (Where results are kept: a folder, or any URI that "
            "pyarrow.fs opens)\n"
            "f.yaml:3: tracking must be text, not []\n"
            "  fix: set tracking to text (MLflow URI; null = SQLite file in a local storage, off "
            "for a remote one)\n"
            "f.yaml:4: seed must be a whole number, not true\n"
            "  fix: set seed to a whole number (Seed of the jobs that name none)\n"
            "f.yaml:5: a pipeline has no 'size'\n"
            "  fix: did you mean 'seed'?"
        ),
    ),
    "repeated keys beside other mistakes": (
        HEAD + DATA + "  data: {kind: load_dataset, source: digits, sise: 3}\n",
        (
            "f.yaml:4: 'data' is given twice, first in line 3\n"
            "  fix: remove or rename one of them\n"
            "f.yaml:4: job 'data': load_dataset has no 'sise'\n"
            "  fix: did you mean 'size'?"
        ),
    ),
    "what is known of the results": (
        HEAD
        + DATA
        + "  teacher:\n    kind: train_flow\n    data: data\n    steps: 1\n    flip: true\n"
        + f"    {NETWORK}\n"
        + "  pairs: {kind: generate_pairs, flow: teacher, count: 10}\n"
        + "  others: {kind: analytic_flow, data: data}\n"
        + "  bad:\n    kind: generate_pairs\n    flow: others\n    count: 10\n"
        + "    shard_size: 10\n    batch_size: 3\n",
        (
            "f.yaml:8: job 'teacher', flip: 'data' declares that mirrored images are not valid\n"
            "  fix: set flip: false or null; or flip_valid: true at the data set if mirroring is "
            "harmless\n"
            "f.yaml:17: job 'bad': batch_size 3 does not divide shard_size 10\n"
            "  fix: make shard_size a multiple of batch_size"
        ),
    ),
    "a network that cannot take the images": (
        HEAD
        + DATA
        + "  teacher:\n    kind: train_flow\n    data: data\n    steps: 1\n"
        + "    network: {kind: song_unet, channels: 8, channel_multipliers: [1, 1, 1, 1, 1]}\n",
        (
            "f.yaml:8: job 'teacher', network: images of 8 x 8 px cannot be halved 4 times\n"
            "  fix: give at most 4 channel_multipliers, one per level"
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_all_mistakes_of_a_file(case: str):
    text, expected = CASES[case]
    was = said(text)
    assert was == expected or was.startswith(expected)
    assert was.count("\n  fix: ") == len([one for one in was.splitlines() if "f.yaml" in one])


def test_cycles_of_several_jobs_are_reported_apart():
    jobs: dict[str, Any] = {}
    network = {"kind": "song_unet", "channels": 8, "channel_multipliers": [1]}
    for a, b in (("p1", "f1"), ("p2", "f2")):
        jobs[a] = {"kind": "generate_pairs", "flow": b, "count": 1}
        jobs[b] = {"kind": "anneal_reflow", "pairs": a, "steps": 1, "network": network}
    jobs["after"] = {"kind": "generate_pairs", "flow": "f2", "count": 1}
    found = mistakes_of(jobs)
    assert [one.what.rpartition(": ")[2] for one in found] == ["p1 -> f1 -> p1", "p2 -> f2 -> p2"]


def test_many_wrong_references_are_reported_without_a_search_for_each():
    jobs: dict[str, Any] = {"data": {"kind": "load_dataset", "source": "digits"}}
    for number in range(MAX_SEARCHES + 5):
        jobs[f"f{number}"] = {"kind": "analytic_flow", "data": "nobody"}
    fixes = [mistake.fix for mistake in mistakes_of(jobs)]
    assert fixes[0] == "use 'data'"
    assert fixes[-1] == "name a job that makes a Dataset"


class Optional(JobSpec):
    data: Ref[Dataset] | None = None
    other: Ref[Flow] | None = None

    def run(self, context: JobContext) -> Flow:
        raise NotImplementedError


def test_a_kind_must_be_installed(install_kinds):
    assert [one.what for one in mistakes_of({"a": Optional()})] == [
        "job 'a': Optional is not registered under 'slimctl.kinds'"
    ]
    install_kinds(optional=Optional)
    assert mistakes_of({"a": Optional(), "b": {"kind": "optional", "other": "a"}}) == []


def test_specs_and_plain_data_are_checked_alike():
    jobs = {"data": LoadDataset(source="digits"), "flow": {"kind": "analytic_flow", "data": "data"}}
    linked = link(read_jobs(jobs))
    assert linked.mistakes == []
    assert linked.specs["data"] is jobs["data"]
    assert linked.specs["flow"].data == Ref("data")


def test_what_chose_a_result_is_known_downstream():
    """The judge of a student, through a fleet or a training that starts from it."""
    jobs = {
        "data": {"kind": "load_dataset", "source": "digits"},
        "judge": {"kind": "train_features", "data": "data"},
        "report": {"kind": "train_features", "data": "data", "seed": 5},
        "teacher": {"kind": "analytic_flow", "data": "data"},
        "first": {
            "kind": "match_distribution", "teacher": "teacher", "data": "data", "steps": 1,
            "network": {"kind": "mlp"}, "judge_features": "judge", "fake": "flow",
        },
        "flow": {"kind": "train_flow", "data": "data", "network": {"kind": "mlp"}, "steps": 1},
        "pairs": {"kind": "generate_pairs", "flow": "teacher", "count": 10},
        "second": {
            "kind": "distill", "pairs": "pairs", "start": "first", "steps": 1, "two_step_weight": 0,
        },
        "quality": {"kind": "evaluate", "model": "second", "data": "data", "features": "report"},
    }  # fmt: skip
    pipeline = resolve(Pipeline(name="a", seed=0, jobs=jobs))
    graph = Graph.of(pipeline)
    facts = preflight(pipeline, graph)
    assert facts["second"].chosen_by == facts["first"].chosen_by == ("judge",)
    assert facts["flow"].chosen_by == ()
    assert not [one for one in warnings(pipeline, graph, facts) if "also chose" in one.what]
    jobs["quality"]["features"] = "judge"
    pipeline = resolve(Pipeline(name="a", seed=0, jobs=jobs))
    (one,) = (one for one in warnings(pipeline, graph, facts) if "also chose" in one.what)
    assert "'judge' also chose the weights of 'second'" in one.what
