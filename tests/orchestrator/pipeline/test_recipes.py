"""A recipe is the jobs that it stands for, written in one line."""

import pytest

from slimctl.jobs.base.registry import load_kind
from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems
from slimctl.orchestrator.pipeline.pipeline import parse_pipeline, resolve
from slimctl.orchestrator.pipeline.recipes import RECIPES
from slimctl.orchestrator.planning.graph import identities

HEAD = """name: r
seed: 3
jobs:
  data: {kind: load_dataset, source: digits}
  judge: {kind: train_features, data: data, seed: 1}
  teacher: {kind: train_flow, data: data, steps: 10, network: {kind: mlp}}
  pairs: {kind: generate_pairs, flow: teacher, count: 100}
"""
ENTRY = "recipe: pairs_then_matching, teacher: teacher, pairs: pairs, data: data"
MORE = "network: {kind: mlp}, judge_features: judge, pair_steps: 30, steps: 20"
ONE = f"  small: {{{ENTRY}, {MORE}}}\n"
WRITTEN = """  small-start:
    {kind: distill, pairs: pairs, network: {kind: mlp}, two_step_weight: 0, distance: {kind: huber},
     steps: 30, batch_size: 64, learning_rate: 2e-3, warmup: 50, decay: cosine}
  small:
    {kind: match_distribution, teacher: teacher, pairs: pairs, data: data, start: small-start,
     judge_features: judge, fake_updates: 2, steps: 20, batch_size: 32, pair_batch: 16,
     learning_rate: 5e-4, fake_learning_rate: 1.5e-3, warmup: 50, decay: cosine}
"""


def ids(text):
    pipeline = parse_pipeline(text, "r.yaml").pipeline
    return {name: one.id for name, one in identities(resolve(pipeline)).items()}


def said(entry):
    with pytest.raises(PipelineProblems) as caught:
        parse_pipeline(HEAD + entry, "r.yaml")
    return str(caught.value)


def test_it_is_what_its_jobs_written_out_are():
    assert ids(HEAD + ONE) == ids(HEAD + WRITTEN)


def test_it_stands_in_groups_and_takes_their_values():
    group = "  g:\n    for_each: {seed: [1, 2]}\n    jobs:\n"
    entry = f"      s: {{{ENTRY}, network: {{kind: mlp}}, seed: '${{seed}}', batch_size: 32}}\n"
    pipeline = parse_pipeline(HEAD + group + entry, "r.yaml").pipeline
    for seed in (1, 2):
        start, student = (pipeline.specs[f"g.seed={seed}.{name}"] for name in ("s-start", "s"))
        assert (start.seed, student.seed) == (seed, seed)
        assert (start.batch_size, student.batch_size) == (32, 32)
        assert student.start.job == f"g.seed={seed}.s-start"


def test_mistakes_are_said_at_its_line():
    assert "r.yaml:8: job 'small': there is no recipe 'pairs'" in said(
        "  small: {recipe: pairs, teacher: teacher, pairs: pairs, data: data}\n"
    )
    wrong = f"  small: {{{ENTRY}, network: {{kind: mlp}},\n    stepz: 5}}\n"
    assert "r.yaml:9: job 'small': the recipe takes no 'stepz'\n  fix: did you mean 'steps'?" in (
        said(wrong)
    )
    lost = f"  small: {{{ENTRY.replace('data: data', 'data: nothing')}, network: {{kind: mlp}}}}\n"
    assert "r.yaml:8: job 'small' needs 'nothing' as data" in said(lost)
    taken = ONE + "  small-start: {kind: load_dataset, source: digits}\n"
    assert "its stage 'small-start' has the name of another job" in said(taken)


def test_settings_are_fields_of_their_kinds():
    for stages in RECIPES.values():
        for stage in stages.values():
            fields = set(load_kind(stage.kind).model_fields)
            assert {*stage.settings, *stage.takes.values(), *stage.leaves} <= fields
