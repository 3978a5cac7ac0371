"""Pipelines with groups: what they stand for, and all that the user reads about broken ones."""

import pytest
from grouped import KINDS, TEXT

from jobs.base.artifacts import Generator
from jobs.base.cluster import Cluster
from jobs.base.context import SilentReporter
from jobs.base.refs import Ref
from jobs.execution import JobRequest, execute
from jobs.storage.store import Store
from orchestrator.graph import Graph, identities
from orchestrator.groups import Group
from orchestrator.pipeline import Pipeline, parse_pipeline, resolve, to_data, to_yaml
from orchestrator.planner import make_plan
from orchestrator.problems import PipelineProblems


@pytest.fixture(autouse=True)
def kinds(install_kinds) -> None:
    install_kinds(**KINDS)


def load(text: str = TEXT, *overrides: str) -> Pipeline:
    return parse_pipeline(text, "f.yaml", overrides).pipeline


def told(text: str, *overrides: str) -> str:
    with pytest.raises(PipelineProblems) as caught:
        load(text, *overrides)
    return str(caught.value)


def changed(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new)


def ids(pipeline: Pipeline) -> dict[str, str]:
    return {name: found.id for name, found in identities(resolve(pipeline)).items()}


def test_jobs_of_a_group_are_those_that_one_would_write_by_hand():
    pipeline = load()
    assert len(pipeline.specs) == 14
    assert len(pipeline.jobs) == 3
    first = pipeline.specs["group.steps=6.seed=2.first"]
    assert (first.steps, first.seed, first.data) == (6, 2, Ref("data"))
    second = pipeline.specs["group.steps=6.seed=2.second"]
    assert second.start == Ref("group.steps=6.seed=2.first")
    assert pipeline.specs["all"].flows == tuple(
        Ref(f"group.steps={steps}.seed={seed}.second") for steps in (5, 6) for seed in (0, 1, 2)
    )
    by_hand = {"data": {"kind": "source"}}
    by_hand["a"] = {"kind": "make", "data": "data", "steps": 6, "seed": 2}
    by_hand["b"] = {"kind": "make", "data": "data", "start": "a"}
    same = ids(Pipeline(name="y", jobs=by_hand))
    assert ids(pipeline)["group.steps=6.seed=2.second"] == same["b"]


def test_an_iteration_that_changes_nothing_is_made_once():
    text = changed('"${seed}"', "0").replace(
        "start: first", 'start: first\n        seed: "${seed}"'
    )
    found = ids(load(text))
    assert found["group.steps=5.seed=0.first"] == found["group.steps=5.seed=2.first"]
    assert found["group.steps=5.seed=0.first"] != found["group.steps=6.seed=0.first"]


def test_inputs_of_a_field_that_names_many():
    graph = Graph.of(load())
    assert graph.edges["all"][4] == ("flows.4", "group.steps=6.seed=1.second")
    assert len(graph.inputs("all")) == 6


def test_a_group_is_saved_as_a_group_with_every_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipeline = resolve(load(TEXT, "seed=7"))
    saved = to_yaml(pipeline)
    assert '        steps: "${steps}"\n' in saved
    assert to_data(pipeline)["jobs"]["group"]["jobs"]["second"] == {
        "kind": "make",
        "data": "data",
        "start": "first",
        "seed": 7,
        "steps": 1,
        "options": {},
    }
    assert len(saved.splitlines()) < 30
    again = load(saved)
    assert resolve(again) == pipeline
    assert ids(again) == ids(pipeline)


def test_paths_with_placeholders_become_absolute(install_kinds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.npz").touch()
    text = "name: x\njobs:\n  g:\n    for_each: {n: [a, b], m: [1, 2]}\n    jobs:\n"
    text += "      d: {kind: load_dataset, source: './${n}.npz', max_images: '${m}'}\n"
    pipeline = resolve(load(text))
    assert pipeline.jobs["g"].jobs["d"]["source"] == f"{tmp_path}/${{n}}.npz"
    monkeypatch.chdir("/")
    assert load(to_yaml(pipeline)).specs["g.n=b.m=2.d"].source == f"{tmp_path}/b.npz"


def test_the_same_from_python():
    group = Group(
        for_each={"steps": [5, 6], "seed": [0, 1, 2]},
        jobs={
            "first": {"kind": "make", "data": "data", "steps": "${steps}", "seed": "${seed}"},
            "second": KINDS["make"](data="data", start="first"),
        },
    )
    jobs = {"data": KINDS["source"](), "group": group, "all": KINDS["gather"](flows="group.second")}
    assert ids(Pipeline(name="x", jobs=jobs)) == ids(load())
    wrong = {"kind": "make", "data": "data", "start": "${seed}", "steps": "${steps}"}
    group = group.model_copy(update={"jobs": {"second": wrong}})
    with pytest.raises(PipelineProblems, match=r"^jobs\.group\.jobs\.second\.start: job"):
        Pipeline(name="x", jobs={**jobs, "group": group})


def test_jobs_of_a_group_run_like_any_other(tmp_path):
    store = Store(str(tmp_path))
    pipeline = resolve(load())
    for job in make_plan(pipeline, Graph.of(pipeline), store).jobs:
        request = JobRequest(
            job.name, job.kind, job.fields, job.artifact, job.inputs, store.uri, Cluster(1),
            SilentReporter(),
        )  # fmt: skip
        assert execute(request).failure is None
    made = store.load(identities(pipeline)["all"].id, Generator)
    assert made.parameters == 3 * (5 + 1) + 3 * (6 + 1)
    assert make_plan(pipeline, Graph.of(pipeline), store).idle
    more = resolve(load(TEXT, "jobs.group.for_each.steps=[5, 7]"))
    plan = make_plan(more, Graph.of(more), store)
    todo = {job.name for job in plan.jobs if job.action == "run"}
    assert todo == {"all"} | {
        f"group.steps=7.seed={s}.{job}" for s in range(3) for job in ("first", "second")
    }


def test_one_or_some_of_the_iterations():
    def flows(name: str) -> list[str]:
        made = load(changed("flows: group.second", f"flows: {name}")).specs["all"].flows
        return [ref.job.removeprefix("group.") for ref in made]

    assert flows("'group[steps=6].second'") == [f"steps=6.seed={n}.second" for n in range(3)]
    assert flows("'group[ seed = 0x1, steps=5.0 ].first'") == ["steps=5.seed=1.first"]
    assert flows("group.steps=5.seed=1.first") == ["steps=5.seed=1.first"]
    assert len(flows("[group.first, group.second]")) == 12


def test_it_iterates_over_parts():
    text = changed("{kind: source}", "{kind: source, count: 4}").replace("[0, 1, 2]", "data")
    assert len(load(text).specs) == 2 + 2 * 4 * 2


def test_overrides_reach_into_groups():
    assert len(load(TEXT, "jobs.group.for_each.seed=[0]").specs) == 6
    made = load(TEXT, "jobs.group.jobs.second.steps=50", "jobs.group.jobs.second.options.a=3")
    assert made.specs["group.steps=5.seed=0.second"].steps == 50
    assert made.specs["group.steps=5.seed=0.second"].options == {"a": 3}
    more = "jobs.group.jobs.third={kind: make, data: data, start: second}"
    assert len(load(TEXT, more).specs) == 20


CASES = {
    "wrong in every iteration": (
        changed("        start: first", "        start: first\n        steps: many"),
        (
            "f.yaml:12: job 'group.second': steps must be a whole number, not 'many'\n"
            "  fix: set steps to a whole number"
        ),
    ),
    "wrong in one": (
        changed("[5, 6]", "[5, x]"),
        (
            "f.yaml:7: job 'group.first': steps must be a whole number, not 'x' "
            "(with steps=x, seed=0 and 2 more)\n  fix: set steps to a whole number"
        ),
    ),
    "wrong in many ways": (
        changed("[5, 6]", "[5, a, b, c, d]"),
        (
            "f.yaml:7: job 'group.first': steps must be a whole number, not 'a' "
            "(with steps=a, seed=0 and 2 more)\n  fix: set steps to a whole number\n"
            "f.yaml:7: job 'group.first': steps must be a whole number, not 'b' "
            "(with steps=b, seed=0 and 2 more)\n  fix: set steps to a whole number\n"
            "f.yaml:7: job 'group.first': steps must be a whole number, not 'c' "
            "(with steps=c, seed=0 and 2 more)\n  fix: set steps to a whole number\n"
            "f.yaml:7: 3 more iterations of 'group' are wrong here\n  fix: mend those above first"
        ),
    ),
    "what only inputs tell": (
        changed("[5, 6]", "[5, 13]"),
        (
            "f.yaml:7: job 'group.first', steps: 13 brings bad luck (with steps=13, seed=0 "
            "and 2 more)\n"
            "  fix: take 12"
        ),
    ),
    "an input of many": (
        changed("start: first", "start: first\n        steps: 99"),
        "f.yaml:13: job 'all', flows.0: it has 99 steps",
    ),
    "no such variable": (
        changed('"${seed}"', '"${sed}"').replace('"${steps}"', '"${steps}${sed}"'),
        (
            "f.yaml:5: group 'group': no job uses seed, so all its values give the same\n"
            "  fix: write '${seed}' in a field of a job, or remove seed\n"
            "f.yaml:7: job 'group.first': the group has no variable 'sed'\n  fix: did you "
            "mean 'seed'?\n"
            "f.yaml:7: job 'group.first': the group has no variable 'sed'\n  fix: did you "
            "mean 'seed'?"
        ),
    ),
    "a mapping inside a text": (
        changed("[5, 6]", "[{a: 1}]").replace('"${steps}"', '"no ${steps}"'),
        (
            "f.yaml:7: job 'group.first': steps is more than one value and cannot stand "
            "inside a text\n"
            "  fix: write '${steps}' alone"
        ),
    ),
    "no sibling": (
        changed("start: first", "start: frist"),
        (
            "f.yaml:11: job 'group.second' needs 'frist' as start, but there is no such job\n"
            "  fix: did you mean 'first'?"
        ),
    ),
    "a sibling of the wrong type": (
        changed("start: first", "start: data"),
        (
            "f.yaml:11: job 'group.second' needs a Flow as start, but 'data' makes a Dataset\n"
            "  fix: use 'first'"
        ),
    ),
    "all where one is wanted": (
        changed("start: first", "start: group.first"),
        (
            "f.yaml:11: job 'group.second' needs 'group.first' as start, but these are 6 jobs\n"
            "  fix: write 'first' for the one of the same iteration"
        ),
    ),
    "a group where jobs are wanted": (
        changed("flows: group.second", "flows: group"),
        (
            "f.yaml:12: job 'all' needs 'group' as flows, but it is a group\n"
            "  fix: name a job of it, such as 'group.first'"
        ),
    ),
    "no such member": (
        changed("flows: group.second", "flows: group.secnd"),
        (
            "f.yaml:12: job 'all' needs 'group.secnd' as flows, but the group 'group' has no job "
            "'secnd'\n  fix: did you mean 'second'?"
        ),
    ),
    "no such value": (
        changed("flows: group.second", "flows: ['group[steps=5].first', 'group[seed=7].second']"),
        (
            "f.yaml:12: job 'all' needs 'group[seed=7].second' as flows, but 'group' has no "
            "seed=7\n"
            "  fix: use seed=0 or 1 or 2"
        ),
    ),
    "no such variable in a selection": (
        changed("flows: group.second", "flows: 'group[sed=0].second'"),
        (
            "f.yaml:12: job 'all' needs 'group[sed=0].second' as flows, but 'group' has no "
            "variable "
            "'sed'\n  fix: did you mean 'seed'?"
        ),
    ),
    "no such iteration": (
        changed("flows: group.second", "flows: [group.steps=7.seed=0.second]"),
        (
            "f.yaml:12: job 'all' needs 'group.steps=7.seed=0.second' as flows, but there is "
            "no such "
            "job\n  fix: did you mean 'group.steps=6.seed=0.second'?"
        ),
    ),
    "many where one is wanted": (
        changed("  all:", "  b: {kind: make, data: group.first}\n  all:"),
        (
            "f.yaml:12: job 'b' needs 'group.first' as data, but these are 6 jobs\n"
            "  fix: name one of them, such as 'group.steps=5.seed=0.first'"
        ),
    ),
    "a sibling called like a job outside": (
        changed("  all:", "  first: {kind: make, data: data}\n  all:"),
        (
            "f.yaml:11: job 'group.second' needs 'first' as start, but there are two, in the group "
            "'group' and outside\n  fix: rename one of them"
        ),
    ),
    "a circle in every iteration": (
        changed("{kind: make, data: data, steps", "{kind: make, data: data, start: second, steps"),
        (
            "f.yaml:7: job 'group.first' needs its own result in the end: group.first -> "
            "group.second "
            "-> group.first\n  fix: change 'jobs.group.jobs.first.start' or "
            "'jobs.group.jobs.second.start'"
        ),
    ),
    "a group in a group": (
        changed("      second:\n", "      inner: {for_each: {a: [1]}, jobs: {}}\n      second:\n"),
        (
            "f.yaml:8: group 'group': 'inner' is a group, and a group holds no other groups\n"
            "  fix: name the variables of both in one for_each: they multiply"
        ),
    ),
    "names with dots": (
        changed("  group:\n", "  gro.up:\n").replace("      first:", "      fir.st:"),
        (
            "f.yaml:4: a group's name must be 1 to 64 letters, digits, '_' or '-', the first one a "
            "letter or digit, not 'gro.up'\n  fix: call it 'gro-up'\n"
            "f.yaml:7: group 'gro.up': a job's name must be 1 to 64 letters, digits, '_' or "
            "'-', the "
            "first one a letter or digit, not 'fir.st'\n  fix: call it 'fir-st'\n"
            "f.yaml:11: job 'gro.up.second' needs 'first' as start, but there is no such job\n"
            "  fix: add a job that makes a Flow (kind: analytic_flow or anneal_reflow or "
            "import_teacher or make or match_teacher or "
            "train_flow)\n"
            "f.yaml:12: job 'all' needs 'group.second' as flows, but there is no such job\n"
            "  fix: did you mean 'gro.up.second'?"
        ),
    ),
    "a job called like a group's": (
        changed("  all:", "  group.first: {kind: source}\n  all:"),
        (
            "f.yaml:12: 'group.first' means the jobs 'first' of the group\n"
            "  fix: give this job another name"
        ),
    ),
    "a job with for_each": (
        changed("{kind: source}", "{kind: source, for_each: {a: [1]}}"),
        (
            "f.yaml:3: job 'data' has a for_each, which belongs to a group of jobs\n"
            "  fix: write 'data: {for_each: ..., jobs: {NAME: {kind: ...}}}'"
        ),
    ),
    "no for_each": (
        "name: x\njobs:\n  g:\n    foreach: {a: [1]}\n    jobs:\n      a: {kind: source}\n",
        (
            "f.yaml:4: group 'g': a group has no 'foreach', and 'for_each' is missing\n"
            "  fix: did you mean 'for_each'?"
        ),
    ),
    "no jobs": (
        "name: x\njobs:\n  g: {for_each: {a: [1]}, jobs: {}}\n",
        (
            "f.yaml:3: group 'g': jobs must not be empty\n"
            "  fix: set jobs to something (Name -> job, with placeholders such as `${seed}` in any "
            "field)"
        ),
    ),
    "parts of what has none": (
        changed("[0, 1, 2]", "data"),
        (
            "f.yaml:5: group 'group': seed cannot iterate over 'data': a Dataset has no parts\n"
            "  fix: write a list of values"
        ),
    ),
    "parts of nothing": (
        changed("[0, 1, 2]", "dada"),
        (
            "f.yaml:5: group 'group': seed names 'dada', but there is no such job\n"
            "  fix: write a list of values, or name a job with parts; did you mean 'data'?"
        ),
    ),
    "parts of a job with a mistake of its own": (
        changed("{kind: source}", "{kind: source, count: many}").replace("[0, 1, 2]", "data"),
        (
            "f.yaml:3: job 'data': count must be a whole number, not 'many'\n"
            "  fix: set count to a whole number"
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_user_reads(case):
    text, expected = CASES[case]
    assert told(text) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("jobs.group.for_each.seed=[]", "group 'group': seed has no values"),
        ("jobs.group.jobs.frist.steps=5", "there is no job 'frist' in the group 'group'"),
        ("jobs.group.jobs.first.stps=5", "job 'group.first': make has no 'stps'"),
        ("jobs.grp.jobs.first.steps=5", "there is no job 'grp'"),
    ],
)
def test_what_is_wrong_with_an_override_is_told_there(override, expected):
    assert told(TEXT, override).startswith(f"--set {override}: {expected}")


def test_ten_thousand_jobs_of_a_group_are_planned():
    text = changed("[5, 6]", str(list(range(20, 520)))).replace("[0, 1, 2]", str(list(range(10))))
    pipeline = resolve(load(text))
    assert len(identities(pipeline, Graph.of(pipeline))) == 10_002
