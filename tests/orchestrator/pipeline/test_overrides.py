from typing import Any

import pytest

from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems
from slimctl.orchestrator.pipeline.overrides import apply_overrides
from slimctl.orchestrator.pipeline.pipeline import Pipeline, parse_pipeline
from slimctl.orchestrator.pipeline.source import Document, parse_document

TEXT = """\
name: digits
jobs:
  data: {kind: load_dataset, source: digits}
  data.v2: {kind: load_dataset, source: digits}
  teacher:
    kind: train_flow
    data: data
    network: {kind: song_unet, channels: 32, channel_multipliers: [1, 2]}
    steps: 3000
  pairs: {kind: generate_pairs, flow: teacher, count: 100}
  one_step:
    {kind: distill, pairs: pairs, start: teacher, guide: teacher, steps: 10}
"""


def load(*overrides: str) -> Pipeline:
    return parse_pipeline(TEXT, "f.yaml", overrides).pipeline


def problems_of(*overrides: str) -> str:
    with pytest.raises(PipelineProblems) as caught:
        load(*overrides)
    return str(caught.value)


def applied(*overrides: str) -> dict[str, Any]:
    document, problems = apply_overrides(parse_document(TEXT, "f.yaml"), overrides)
    assert problems == ()
    return document.data


def test_a_value_that_the_file_has():
    assert load("jobs.teacher.steps=500").jobs["teacher"].steps == 500
    assert load("seed=7", "name=other").seed == 7
    assert load("jobs.teacher.network.channels=16").jobs["teacher"].network.channels == 16


def test_a_value_follows_the_rules_of_the_file():
    assert load("jobs.teacher.learning_rate=1e-4").jobs["teacher"].learning_rate == 1e-4
    assert load("tracking=no").tracking == "no"
    assert load("tracking=").tracking is None
    assert load("tracking=a=b").tracking == "a=b"
    assert load("storage='1'").storage == "1"


def test_a_field_that_the_file_leaves_out():
    assert load("jobs.teacher.batch_size=64").jobs["teacher"].batch_size == 64
    assert load("tracking=x").tracking == "x"


def test_a_field_inside_one_that_the_file_leaves_out_keeps_the_rest_of_the_default():
    solver = load("jobs.pairs.solver.max_evaluations=50").jobs["pairs"].solver
    assert (solver.kind, solver.tolerance, solver.max_evaluations) == ("rk45", 1e-4, 50)
    time = load("jobs.teacher.time.low=0.25").jobs["teacher"].time
    assert (time.kind, time.low, time.high) == ("uniform", 0.25, 1.0)


def test_another_kind_does_not_keep_the_default_of_the_first():
    overrides = ("jobs.pairs.solver.kind=euler", "jobs.pairs.solver.steps=9")
    assert load(*overrides).jobs["pairs"].solver.steps == 9


def test_a_field_that_is_null_by_default():
    network = "jobs.one_step.network={kind: song_unet, channels: 8, channel_multipliers: [1]}"
    changed = load("jobs.one_step.start=null", network, "jobs.one_step.network.channels=12")
    assert changed.jobs["one_step"].network.channels == 12


def test_items_of_lists():
    network = load("jobs.teacher.network.channel_multipliers.1=3").jobs["teacher"].network
    assert network.channel_multipliers == (1, 3)
    assert load("jobs.teacher.adam_betas.0=0.5").jobs["teacher"].adam_betas == (0.5, 0.999)


def test_a_job_with_a_dot_in_its_name():
    assert load("jobs.data.v2.labels=false").jobs["data.v2"].labels is False
    assert load("jobs.data.labels=false").jobs["data"].labels is False


def test_a_whole_new_job():
    pipeline = load("jobs.more={kind: generate_pairs, flow: teacher, count: 5}")
    assert pipeline.jobs["more"].count == 5
    more = load("jobs.more={kind: load_dataset, source: digits}", "jobs.more.size=4").jobs["more"]
    assert more.size == 4


def test_later_ones_win_and_aliases_are_not_disturbed():
    assert applied("seed=1", "seed=2")["seed"] == 2
    text = "name: x\njobs:\n  a: &a {kind: load_dataset, source: digits}\n  b: *a\n"
    document, _ = apply_overrides(parse_document(text, "f"), ["jobs.b.source=x"])
    assert document.data["jobs"]["a"]["source"] == "digits"


def test_a_file_without_jobs_can_be_given_some():
    document, problems = apply_overrides(
        parse_document("name: x", "f.yaml"), ["jobs.a={kind: load_dataset}", "jobs.a.source=y"]
    )
    assert problems == ()
    assert document.data["jobs"] == {"a": {"kind": "load_dataset", "source": "y"}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "jobs.teacher.steps=0",
            (
                "--set jobs.teacher.steps=0: job 'teacher': steps must be at least 1, not 0\n"
                "  fix: set steps to at least 1 (Optimizer steps)"
            ),
        ),
        (
            "jobs.teacher.setps=5",
            (
                "--set jobs.teacher.setps=5: job 'teacher': train_flow has no 'setps'\n"
                "  fix: did you mean 'steps'?"
            ),
        ),
        (
            "jobs.teacher.netwrk.channels=5",
            (
                "--set jobs.teacher.netwrk.channels=5: job 'teacher': train_flow has no 'netwrk'\n"
                "  fix: did you mean 'network'?"
            ),
        ),
        (
            "jobs.teacher.network.chanels=5",
            (
                "--set jobs.teacher.network.chanels=5: job 'teacher': network has no 'chanels'\n"
                "  fix: did you mean 'channels'?"
            ),
        ),
        (
            "sed=5",
            "--set sed=5: a pipeline has no 'sed'\n  fix: did you mean 'seed'?",
        ),
        (
            "jobs.techer.steps=5",
            (
                "--set jobs.techer.steps=5: there is no job 'techer'\n"
                "  fix: did you mean 'teacher'?; a new job needs a whole mapping: "
                "--set 'jobs.techer={kind: ...}'"
            ),
        ),
        (
            "jobs.new=5",
            (
                "--set jobs.new=5: there is no job 'new'\n"
                "  fix: use one of: data, data.v2, one_step, pairs, teacher; a new job needs a "
                "whole mapping: --set 'jobs.new={kind: ...}'"
            ),
        ),
        (
            "jobs.teacher.steps.x=5",
            (
                "--set jobs.teacher.steps.x=5: jobs.teacher.steps is 3000, which has no 'x'\n"
                "  fix: set jobs.teacher.steps itself"
            ),
        ),
        (
            "jobs.teacher.network.channel_multipliers.2=5",
            (
                "--set jobs.teacher.network.channel_multipliers.2=5: "
                "jobs.teacher.network.channel_multipliers has 2 items and no item '2'\n"
                "  fix: use an item from 0 to 1, or set all of it"
            ),
        ),
        (
            "jobs.pairs.flow=pairs",
            (
                "--set jobs.pairs.flow=pairs: job 'pairs' needs its own result as flow\n"
                "  fix: use 'teacher'"
            ),
        ),
        (
            "jobs.teacher.network={kind: song_unet, channels: 2}",
            (
                "--set jobs.teacher.network={kind: song_unet, channels: 2}: job 'teacher': "
                "network.channels must be at least 4, not 2\n"
                "  fix: set network.channels to at least 4 (Channels of the first level, the "
                "paper's nf)"
            ),
        ),
        (
            "seed",
            "--set seed: this is not PATH=VALUE\n  fix: write --set jobs.NAME.FIELD=VALUE",
        ),
        ("=5", "--set =5: this is not PATH=VALUE\n  fix: write --set jobs.NAME.FIELD=VALUE"),
        (
            "a..b=5",
            "--set a..b=5: this is not PATH=VALUE\n  fix: write --set jobs.NAME.FIELD=VALUE",
        ),
        (
            "seed=[1",
            (
                "--set seed=[1: the bracket that opens here is not closed, or a ',' is missing "
                "in it\n"
                "  fix: close it, or add the ','"
            ),
        ),
        (
            "seed={a: 1, a: 2}",
            "--set seed={a: 1, a: 2}: 'a' is given twice\n  fix: remove or rename one of them",
        ),
    ],
)
def test_what_is_wrong_is_found_at_the_override(override: str, message: str):
    assert problems_of(override) == message


def test_all_are_reported_together_in_the_order_given():
    message = problems_of("seed=-1", "jobs.nobody.steps=1", "jobs.pairs.count=0")
    assert [line.split(":")[0] for line in message.splitlines()[::2]] == [
        "--set seed=-1",
        "--set jobs.nobody.steps=1",
        "--set jobs.pairs.count=0",
    ]


def test_a_long_override_is_shortened():
    assert problems_of("name=" + "x" * 200).startswith(f"--set name={'x' * 72}...: name must be")


def test_the_document_is_not_changed():
    document = parse_document(TEXT, "f.yaml")
    changed, _ = apply_overrides(document, ["seed=1"])
    assert isinstance(changed, Document)
    assert "seed" not in document.data
