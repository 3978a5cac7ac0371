"""The jobs of trials are checked by the checker of all jobs, at their own lines."""

from collections.abc import Sequence

import pytest

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems, Problem, warnings
from slimctl.orchestrator.pipeline.pipeline import parse_pipeline, resolve
from slimctl.orchestrator.planning.estimate import estimate
from slimctl.orchestrator.planning.graph import Graph, identities, preflight
from slimctl.orchestrator.planning.plan import make_plan
from slimctl.orchestrator.running.search import trial_jobs

TEXT = """\
name: digits
jobs:
  data: {kind: load_dataset, source: digits}
  features: {kind: train_features, data: data, steps: 3}
  sizes:
    kind: sweep
    space:
      width: {choice: [4, 8]}
      steps: {choice: [1, 2]}
    jobs:
      student:
        kind: train_flow
        data: data
        network: {kind: song_unet, channels: "${width}", channel_multipliers: [1]}
        steps: 2
        seed: 7
      quality:
        kind: evaluate
        model: student
        data: data
        features: features
        samples: 50
        solver: {kind: euler, steps: "${steps}"}
    minimize: quality.fid
"""


def wrong(*changes: tuple[str, str], text: str = TEXT) -> Sequence[Problem]:
    """What is said of the file with some changes."""
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(PipelineProblems) as caught:
        parse_pipeline(text, "a.yaml")
    return caught.value.problems


def lines(problems: Sequence[Problem]) -> list[int]:
    return [problem.line for problem in problems]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("steps: 2\n", "steps: -1\n", 15, "job 'sizes.student': steps"),
        ("seed: 7", "colour: red", 16, "colour"),
        ("        data: data\n        network", "        data: features\n        network", 13,
          "needs a Dataset or a LatentSet as data, but 'features' makes a FeatureNet"),
        ("model: student", "model: data", 19, "needs a Flow or a Generator or a Fleet as model"),
        ("model: student", "model: studnt", 19, "there is no such job"),
        ("model: student", "model: sizes", 19, "'sizes' makes a SweepReport"),
        ("seed: 7", "seed: '${seed}'", 16, "the group has no variable 'seed'"),
        ("choice: [1, 2]", "choice: [1, 0]", 23, "(with width=4, steps=0)"),
        ("kind: train_flow", "kind: '${width}'", 12, "cannot be searched over"),
        ("kind: train_flow", "kind: train_flw", 12, "there is no job kind 'train_flw'"),
        ("      steps: {choice", "      more: {choice: [1]}\n      steps: {choice", 9,
         "group 'sizes': no job uses more"),
        ("minimize: quality.fid", "minimize: quality.fd", 24, "no 'fd'"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_once_at_its_line(old, new, line, words):
    (problem,) = wrong((old, new))
    assert problem.line == line
    assert words in problem.what


def test_all_mistakes_are_said_at_once():
    found = wrong(
        ("steps: 2\n", "steps: -1\n"),
        ("samples: 50", "samples: -1\n        draws: 0"),
        ("source: digits", "source: digits, colour: red"),
        ("minimize: quality.fid", "minimize: quality.fd"),
    )
    assert sorted(lines(found)) == [3, 15, 22, 23, 25]


def test_trials_that_need_themselves():
    text = TEXT.replace("data: data\n        network", "data: quality\n        network")
    found = wrong(text=text)
    circle = "sizes.student -> sizes.quality -> sizes.student"
    assert any(problem.what.endswith(circle) for problem in found)
    assert set(lines(found)) == {13}


def test_trials_are_not_for_other_jobs():
    late = "  late: {kind: evaluate, model: 'MODEL', data: data, features: features}\n"
    short, selected = "sizes.student", "sizes[width=4,steps=1].student"
    for name in (short, selected, "sizes.width=4.steps=1.student"):
        (problem,) = wrong(text=TEXT + late.replace("MODEL", name))
        assert problem.line == 25
        assert "'sizes' is a search, whose trials are not known before it runs" in problem.what
    (problem,) = wrong(text=TEXT + late.replace("MODEL", "nothing"))
    assert "sizes" not in problem.fix


def test_a_search_holds_no_other():
    nested = "      more: {kind: sweep, space: {a: {choice: [1]}}, jobs: {b: {kind: x}}}\n"
    found = wrong(("    minimize: quality.fid\n", nested + "    minimize: quality.fid\n"))
    assert any(
        "is a search, and a group holds no other groups" in problem.what for problem in found
    )


def test_choices_that_look_alike_have_names_of_their_own():
    text = TEXT.replace("choice: [4, 8]", "choice: [{channels: 4}, {blocks: 4}]").replace(
        'network: {kind: song_unet, channels: "${width}", channel_multipliers: [1]}',
        "network: {kind: song_unet, channels: 4, channel_multipliers: [1], blocks: 1}\n"
        "        weights: '${width}'",
    )
    found = wrong(text=text)
    assert all("weights" in problem.what for problem in found)


def test_its_trials_are_what_the_same_jobs_of_a_group_would_be(tmp_path):
    group = TEXT.replace("kind: sweep\n    space:", "for_each:").replace("minimize", "#")
    group = group.replace("{choice: [4, 8]}", "[4, 8]").replace("{choice: [1, 2]}", "[1, 2]")
    as_group = resolve(parse_pipeline(group, "g.yaml", storage=str(tmp_path)).pipeline)
    search = resolve(parse_pipeline(TEXT, "a.yaml", storage=str(tmp_path)).pipeline)
    plan = make_plan(search, Graph.of(search), Store(str(tmp_path)))
    job = next(one for one in plan.jobs if one.name == "sizes")
    assert set(job.inputs) == {"data", "features"}
    ids = {name: one.id for name, one in identities(as_group).items()}
    for width in (4, 8):
        for steps in (1, 2):
            values = {"width": width, "steps": steps}
            made = trial_jobs(job, search.specs["sizes"], values)
            for one in made.values():
                assert ids.pop(one.name) == one.artifact
    assert set(ids) == {"data", "features"}


def test_some_trials_are_looked_at_and_none_is_planned(tmp_path):
    pipeline = resolve(parse_pipeline(TEXT, "a.yaml", storage=str(tmp_path)).pipeline)
    graph = Graph.of(pipeline)
    assert [name for name in pipeline.specs if "steps=2" in name]
    plan = make_plan(pipeline, graph, Store(str(tmp_path)))
    assert [job.name for job in plan.jobs] == ["data", "features", "sizes"]
    facts = preflight(pipeline, graph)
    (warned,) = (one for one in warnings(pipeline, graph, facts) if "samples:" in one.what)
    assert warned.what.startswith("job 'sizes.quality', samples: ")
    assert warned.line == 22
    (chosen,) = (one for one in warnings(pipeline, graph, facts) if "choose among" in one.what)
    assert "job 'sizes', minimize: the features 'features'" in chosen.what
    found = estimate(pipeline, graph, facts, plan, 1.0)
    work = found.work["sizes"]
    small = pipeline.specs["sizes.width=4.steps=1.student"].work({"data": facts["data"]})
    assert work.flop > 4 * small.flop
    assert any(line.startswith("4 trials like") for line in work.assumed)
    assert "sizes" not in found.uncounted


GROUPED = """\
name: digits
jobs:
  runs:
    for_each: {seed: [0, 1]}
    jobs:
      data: {kind: load_dataset, source: digits, max_images: "${seed}00"}
      sizes:
        kind: sweep
        space: {bandwidth: {choice: [0.1, 0.2]}}
        jobs:
          flow: {kind: analytic_flow, data: data, bandwidth: "$${bandwidth}"}
          pairs: {kind: generate_pairs, flow: flow, count: 8}
        minimize: pairs.count
"""


def test_a_search_may_stand_in_a_group(tmp_path):
    text = GROUPED.replace("${seed}00", "1${seed}0")
    pipeline = resolve(parse_pipeline(text, "a.yaml", storage=str(tmp_path)).pipeline)
    plan = make_plan(pipeline, Graph.of(pipeline), Store(str(tmp_path)))
    job = next(one for one in plan.jobs if one.name == "runs.seed=1.sizes")
    assert set(job.inputs) == {"runs.seed=1.data"}
    values = {"bandwidth": 0.2}
    made = trial_jobs(job, pipeline.specs[job.name], values)
    assert made["flow"].name == "runs.seed=1.sizes.bandwidth=0.2.flow"
    assert set(made["flow"].inputs) == {"runs.seed=1.data"}
    (problem,) = wrong(("count: 8", "count: -8"), text=text)
    assert problem.line == 12
    assert "'runs.sizes.pairs'" in problem.what
