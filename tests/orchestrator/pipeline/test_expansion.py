"""Pipelines with groups: what they stand for."""

import pytest
from grouped import KINDS, TEXT, changed, load

from slimctl.jobs.base.artifacts import Generator
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import SilentReporter
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.execution import JobRequest, execute
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems
from slimctl.orchestrator.pipeline.groups import Group
from slimctl.orchestrator.pipeline.pipeline import Pipeline, resolve, to_data, to_yaml
from slimctl.orchestrator.planning.graph import Graph, identities
from slimctl.orchestrator.planning.plan import make_plan


@pytest.fixture(autouse=True)
def kinds(install_kinds) -> None:
    install_kinds(**KINDS)


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
        "timeout": None,
        "options": {},
    }
    assert saved.count("kind:") == TEXT.count("kind:")
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


def test_ten_thousand_jobs_of_a_group_are_planned():
    text = changed("[5, 6]", str(list(range(20, 520)))).replace("[0, 1, 2]", str(list(range(10))))
    pipeline = resolve(load(text))
    assert len(identities(pipeline, Graph.of(pipeline))) == 10_002
