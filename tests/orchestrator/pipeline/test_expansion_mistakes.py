"""All that the user reads about broken groups."""

import pytest
from grouped import KINDS, TEXT, changed, load

from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems


@pytest.fixture(autouse=True)
def kinds(install_kinds) -> None:
    install_kinds(**KINDS)


def said(text: str, *overrides: str) -> str:
    with pytest.raises(PipelineProblems) as caught:
        load(text, *overrides)
    return str(caught.value)


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
            "f.yaml:7: 3 more iterations of 'group' are wrong here\n  fix: repair those above first"
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
            "mean_flow or train_flow)\n"
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
        'name: x\njobs:\n  g: {foreach: {a: [1]}, jobs: {a: {kind: source, count: "${a}"}}}\n',
        (
            "f.yaml:3: group 'g': a group has no 'foreach', and 'for_each' is missing\n"
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
    "a variable that no job uses": (
        changed('"${seed}"', "3"),
        (
            "f.yaml:5: group 'group': no job uses seed, so all its values give the same\n"
            "  fix: write '${seed}' in a field of a job, or remove seed"
        ),
    ),
    "no parts": (
        changed("{kind: source}", "{kind: source, count: 0}").replace("[0, 1, 2]", "data"),
        (
            "f.yaml:5: group 'group': seed cannot iterate over 'data': a Dataset has no parts\n"
            "  fix: write a list of values"
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
    assert said(text) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("jobs.group.for_each.seed=[]", "group 'group': seed has no values"),
        ("jobs.group.jobs.frist.steps=5", "there is no job 'frist' in the group 'group'"),
        ("jobs.group.jobs.first.stps=5", "job 'group.first': make has no 'stps'"),
        ("jobs.grp.jobs.first.steps=5", "there is no job 'grp'"),
    ],
)
def test_what_is_wrong_with_an_override_is_reported_there(override, expected):
    assert said(TEXT, override).startswith(f"--set {override}: {expected}")
