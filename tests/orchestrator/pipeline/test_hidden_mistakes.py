"""Independent mistakes are said together, and none is said that only follows from another."""

from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import pytest

from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems
from slimctl.orchestrator.pipeline.pipeline import load_pipeline, parse_pipeline, resolve
from slimctl.orchestrator.planning.graph import Graph, preflight


class Table(NamedTuple):
    """Mistakes of one pipeline.

    Args:
        right: the pipeline without any.
        mutations: mistake -> what is changed, and what is there instead.
        judged: mistakes that show only where what they depend on is known: their job's own fields
            and kind, and the results of the jobs before it.
    """

    right: str
    mutations: dict[str, tuple[str, str]]
    judged: set[str]


DEEP = "channel_multipliers: [1, 2, 2, 2, 2]"
CHAIN = Table(
    """\
name: x
seed: 0
jobs:
  data: {kind: load_dataset, source: digits, channels: 1}
  features: {kind: train_features, data: data, steps: 400}
  teacher:
    kind: train_flow
    data: data
    network: {kind: song_unet, channels: 8, channel_multipliers: [1, 2]}
    flip: false
    steps: 10
    batch_size: 64
    workers: 2
  pairs:
    kind: generate_pairs
    flow: teacher
    count: 1000
    shard_size: 100
    batch_size: 50
    solver: {kind: heun, steps: 5}
  student:
    kind: anneal_reflow
    pairs: pairs
    steps: 10
    network: {kind: song_unet, channels: 4, channel_multipliers: [1, 2]}
  one_step:
    kind: distill
    pairs: pairs
    start: student
    guide: student
    steps: 10
  flow_quality:
    kind: evaluate
    model: student
    data: data
    features: features
    samples: 500
    solver: {kind: euler, steps: 2}
  quality: {kind: evaluate, model: one_step, data: data, features: features, samples: 500}
""",
    {
        "a name": ("name: x", "name: a/b"),
        "the seed": ("seed: 0", "seed: no"),
        "a kind like another": ("kind: load_dataset", "kind: load_datasets"),
        "a kind like none": ("kind: train_features", "kind: zzz"),
        "a kind in the middle": ("kind: anneal_reflow", "kind: aneal_reflow"),
        "a field of the data": ("channels: 1}", "channels: 2}"),
        "an unknown field": ("source: digits,", "source: digits, ziegel: 3,"),
        "a network for other images": (
            "channel_multipliers: [1, 2]}\n    flip",
            f"{DEEP}}}\n    flip",
        ),
        "another": ("channels: 4, channel_multipliers: [1, 2]", f"channels: 4, {DEEP}"),
        "a misspelt field of a network": ("channels: 8", "chanels: 8"),
        "a flip": ("flip: false", "flip: true"),
        "truth for a number": (
            "steps: 10\n    batch",
            "steps: yes\n    batch".replace("yes", "true"),
        ),
        "fields that contradict": ("workers: 2", "workers: 3"),
        "a reference to nobody": ("flow: teacher", "flow: nobody"),
        "a reference to another type": (
            "    pairs: pairs\n    start",
            "    pairs: teacher\n    start",
        ),
        "a missing reference": ("    guide: student\n", ""),
        "a field of the pairs": ("count: 1000", "count: 0"),
        "fields of the pairs that contradict": ("batch_size: 50", "batch_size: 30"),
        "a solver": ("kind: heun, steps: 5", "kind: heun, stps: 5"),
        "a missing solver": ("    solver: {kind: euler, steps: 2}\n", ""),
        "too few samples": ("features, samples: 500}", "features, samples: 3}"),
        "a needless solver": ("one_step, data", "one_step, solver: {kind: euler, steps: 2}, data"),
    },
    {
        "a field of the data",
        "an unknown field",
        "a network for other images",
        "another",
        "a flip",
        "fields of the pairs that contradict",
        "a missing solver",
        "too few samples",
        "a needless solver",
        "fields that contradict",
    },
)
GROUP = Table(
    """\
name: x
jobs:
  data: {kind: load_dataset, source: digits}
  features: {kind: train_features, data: data}
  teacher:
    kind: train_flow
    data: data
    network: {kind: song_unet, channels: 8, channel_multipliers: [1]}
    steps: 10
  pairs: {kind: generate_pairs, flow: teacher, count: 10}
  students:
    for_each: {width: [4, 8], seed: [0, 1]}
    jobs:
      student:
        kind: anneal_reflow
        pairs: pairs
        steps: 10
        seed: "${seed}"
        network: {kind: song_unet, channels: "${width}", channel_multipliers: [1, 2]}
      one_step: {kind: distill, pairs: pairs, start: student, guide: student, steps: 5}
      quality: {kind: evaluate, model: one_step, data: data, features: features, samples: 500}
  later: {kind: generate_pairs, flow: "students[width=4,seed=1].student", count: 10}
""",
    {
        "a job outside": ("count: 10}\n  students", "count: 0}\n  students"),
        "no values": ("width: [4, 8]", "width: []"),
        "equal values": ("seed: [0, 1]", "seed: [0, 0, 1]"),
        "a value that cannot be": ("width: [4, 8]", "width: [4, 0]"),
        "a key that a group has not": ("    for_each", "    draws: 3\n    for_each"),
        "a key that means another": ("    for_each", "    foreach"),
        "a placeholder": ("${width}", "${widht}"),
        "a field": ("steps: 5}", "steps: 0}"),
        "an unknown field": ("        pairs: pairs", "        pairs: pairs\n        ziegel: 3"),
        "a reference to nobody": ("guide: student", "guide: nobody"),
        "a reference to a sibling of another type": ("one_step, data", "quality, data"),
        "a reference to another type": ("data: data, features", "data: pairs, features"),
        "a misspelt kind": ("kind: distill", "kind: distil"),
        "a wrong kind": ("kind: evaluate", "kind: zzz"),
        "too few samples": ("samples: 500", "samples: 5"),
        "a network": ("channel_multipliers: [1, 2]", "channel_multipliers: [1, 0]"),
        "a network for other images": ("channel_multipliers: [1, 2]", DEEP),
        "a job that takes one": ("count: 10}\n\n", "count: 10, batch_size: 7, shard_size: 8}\n"),
    },
    {
        "a placeholder",
        "no values",
        "equal values",
        "a value that cannot be",
        "a field",
        "a reference to nobody",
        "a reference to a sibling of another type",
        "a reference to another type",
        "too few samples",
        "a network for other images",
        "a job that takes one",
    },
)
TABLES = {"chain": CHAIN, "group": GROUP}
PAIRS = [
    (name, pair)
    for name, table in TABLES.items()
    for pair in combinations(table.mutations, 2)
    if len({table.mutations[mistake][0] for mistake in pair}) == 2
]
QUICK = {*Random(0).sample(PAIRS, 48)}
"""A fixed draw; `make slow` tries all."""


@cache
def said(name: str, *mistakes: str) -> set[str]:
    """What the user reads, but for lines and iterations, which depend on what else is wrong."""
    table = TABLES[name]
    text = f"{table.right}\n"
    for mistake in mistakes:
        old, new = table.mutations[mistake]
        assert text.count(old) == 1, mistake
        text = text.replace(old, new)
    try:
        parse_pipeline(text, "f.yaml")
    except PipelineProblems as error:
        return {one.what.partition(" (with")[0] for one in error.problems if one.line}
    return set()


@pytest.mark.parametrize("table", TABLES)
def test_each_is_one_mistake(table):
    found = {name: said(table, name) for name in TABLES[table].mutations}
    assert said(table) == set()
    assert {name: mistakes for name, mistakes in found.items() if len(mistakes) != 1} == {}


@pytest.mark.parametrize(
    ("table", "pair"),
    [
        pytest.param(
            *each, marks=() if each in QUICK else pytest.mark.slow, id=" and ".join(each[1])
        )
        for each in PAIRS
    ],
)
def test_of_two_mistakes_none_only_follows_and_none_is_lost_that_shows(table, pair):
    both, alone = said(table, *pair), [said(table, name) for name in pair]
    assert both <= alone[0] | alone[1]
    for name, mistake in zip(pair, alone, strict=True):
        assert mistake <= both or name in TABLES[table].judged


@pytest.mark.parametrize(
    "pair",
    [
        ("a flip", "too few samples"),
        ("a network for other images", "another"),
        ("a name", "a network for other images"),
        ("a kind like none", "a flip"),
        ("a solver", "a network for other images"),
        ("a missing solver", "a needless solver"),
        ("a missing reference", "fields of the pairs that contradict"),
    ],
)
def test_mistakes_of_independent_jobs_are_said_together(pair):
    assert said("chain", *pair) == said("chain", pair[0]) | said("chain", pair[1])


CIRCLE = """\
name: x
jobs:
  a: {kind: generate_pairs, flow: b, count: 10, batch_size: 3, shard_size: 10}
  b: {kind: match_teacher, teacher: c, data: data, steps: 1, network: {kind: song_unet, channels: 8,
    channel_multipliers: [1]}}
  c:
    kind: train_flow
    data: data
    steps: 1
    network: {kind: song_unet, channels: 8, channel_multipliers: [1, 1, 1, 1, 1]}
  d:
    kind: anneal_reflow
    pairs: e
    steps: 1
    network: {kind: song_unet, channels: 8, channel_multipliers: [1]}
  e: {kind: generate_pairs, flow: d, count: 10, batch_size: 3, shard_size: 10}
  f: {kind: generate_pairs, flow: d, count: 10, batch_size: 4, shard_size: 10}
  data: {kind: load_dataset, source: digits}
"""


def test_a_circle_hides_nothing_of_its_jobs_and_of_those_behind_it():
    with pytest.raises(PipelineProblems) as caught:
        parse_pipeline(CIRCLE, "f.yaml")
    assert [(one.line, one.what.partition(":")[2]) for one in caught.value.problems] == [
        (3, " batch_size 3 does not divide shard_size 10"),
        (10, " images of 8 x 8 px cannot be halved 4 times"),
        (13, " d -> e -> d"),
        (16, " batch_size 3 does not divide shard_size 10"),
        (17, " batch_size 4 does not divide shard_size 10"),
    ]


FLEET = """\
name: x
jobs:
  data: {kind: load_dataset, source: digits}
  teacher: {kind: train_flow, data: data, conditional: true, steps: 1, network: &net {kind: mlp}}
  parts: {kind: partition, data: data, count: 2}
  one: {kind: match_teacher, teacher: teacher, data: data, network: *net, steps: 1,
    partition: parts, part: first}
  two: {kind: match_teacher, teacher: teacher, data: data, network: *net, steps: 1,
    partition: parts, part: 5}
  fleet: {kind: assemble_fleet, partition: parts, students: [one, two]}
  quality: {kind: evaluate, model: one, data: data, features: features}
"""


def test_what_is_taken_from_a_wrong_field_is_not_known_to_other_jobs():
    with pytest.raises(PipelineProblems) as caught:
        parse_pipeline(FLEET, "f.yaml")
    assert [(one.line, one.what) for one in caught.value.problems] == [
        (7, "job 'one': part must be a whole number, not 'first'"),
        (9, "job 'two': part is 5, but 'parts' has 2 parts"),
        (11, "job 'quality', solver: 'one' is a flow and needs a solver"),
        (11, "job 'quality' needs 'features' as features, but there is no such job"),
    ]


# Mistakes that are in the user's files


FILES = """\
name: x
jobs:
  data: {kind: load_dataset, source: images.npz}
  torn: {kind: load_dataset, source: torn.npz}
  teacher:
    kind: train_flow
    data: data
    steps: 1
    network: {kind: song_unet, channels: 8, channel_multipliers: [1, 1, 1, 1, 1]}
  pairs: {kind: generate_pairs, flow: teacher, count: 10}
"""


@pytest.fixture
def in_files(tmp_path, monkeypatch) -> Callable[..., list[int]]:
    """`in_files(old, new)` are the lines of all mistakes where something else is wrong, too."""
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", images=np.zeros((9, 8, 8, 1), np.uint8))
    Path("torn.npz").write_bytes(b"torn")

    def lines(old: str = "", new: str = "", *, reads: bool = True) -> list[int]:
        Path("f.yaml").write_text(FILES.replace(old, new) if old else FILES)
        with pytest.raises(PipelineProblems) as caught:
            load_pipeline("f.yaml", reads=reads)
        return [problem.line for problem in caught.value.problems]

    return lines


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("count: 10", "count: 0", 10),
        ("flow: teacher", "flow: nobody", 10),
        ("name: x", "name: a/b", 1),
        ("name: x", "name: x\nseed: -1", 2),
    ],
)
def test_what_reading_the_files_tells_is_hidden_by_nothing(in_files, old, new, line):
    more = new.count("\n") - old.count("\n")
    assert in_files(old, new) == sorted([line, 4 + more, 9 + more])
    assert in_files(old, new, reads=False) == [line]


def test_what_reading_tells_of_a_job_with_a_mistake_of_its_own_is_not_known(in_files):
    assert in_files("images.npz}", "images.npz, ziegel: 1}") == [3, 4]
    assert in_files("images.npz}", "nowhere.npz}") == [3, 4]


@pytest.mark.usefixtures("in_files")
def test_a_file_without_other_mistakes_is_read_later():
    Path("f.yaml").write_text(FILES)
    pipeline = resolve(load_pipeline("f.yaml", reads=True).pipeline)
    with pytest.raises(PipelineProblems) as caught:
        preflight(pipeline, Graph.of(pipeline))
    assert [problem.line for problem in caught.value.problems] == [4, 9]
