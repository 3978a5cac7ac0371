"""No mistake hides another, and none is told that only follows from another."""

from itertools import combinations

import pytest

from orchestrator.pipeline import parse_pipeline
from orchestrator.problems import PipelineProblems

RIGHT = """\
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
"""

DEEP = "channel_multipliers: [1, 2, 2, 2, 2]"
MUTATIONS = {
    "a name": ("name: x", "name: a/b"),
    "the seed": ("seed: 0", "seed: no"),
    "a kind like another": ("kind: load_dataset", "kind: load_datasets"),
    "a kind like none": ("kind: train_features", "kind: zzz"),
    "a kind in the middle": ("kind: anneal_reflow", "kind: aneal_reflow"),
    "a field of the data": ("channels: 1}", "channels: 2}"),
    "an unknown field": ("source: digits,", "source: digits, ziegel: 3,"),
    "a network for other images": ("channel_multipliers: [1, 2]}\n    flip", f"{DEEP}}}\n    flip"),
    "another": ("channels: 4, channel_multipliers: [1, 2]", f"channels: 4, {DEEP}"),
    "a misspelt field of a network": ("channels: 8", "chanels: 8"),
    "a flip": ("flip: false", "flip: true"),
    "truth for a number": ("steps: 10\n    batch", "steps: yes\n    batch".replace("yes", "true")),
    "fields that contradict": ("workers: 2", "workers: 3"),
    "a reference to nobody": ("flow: teacher", "flow: nobody"),
    "a reference to another type": ("    pairs: pairs\n    start", "    pairs: teacher\n    start"),
    "a missing reference": ("    guide: student\n", ""),
    "a field of the pairs": ("count: 1000", "count: 0"),
    "fields of the pairs that contradict": ("batch_size: 50", "batch_size: 30"),
    "a solver": ("kind: heun, steps: 5", "kind: heun, stps: 5"),
    "a missing solver": ("    solver: {kind: euler, steps: 2}\n", ""),
    "too few samples": ("features, samples: 500}", "features, samples: 3}"),
    "a needless solver": ("one_step, data", "one_step, solver: {kind: euler, steps: 2}, data"),
}
"""What is changed -> what is there instead."""
UNKNOWN = {
    ("a field of the data", "a network for other images"),
    ("a field of the data", "another"),
    ("a field of the data", "a flip"),
    ("an unknown field", "a network for other images"),
    ("an unknown field", "another"),
    ("an unknown field", "a flip"),
    ("a misspelt field of a network", "a network for other images"),
    ("a reference to nobody", "another"),
}
"""Mistakes with which nothing is known of what the other one depends on: it is told next time."""


def told(*names: str) -> set[str]:
    """What the user reads, without the lines, which shift where one is missing."""
    text = RIGHT
    for name in names:
        old, new = MUTATIONS[name]
        assert text.count(old) == 1, name
        text = text.replace(old, new)
    try:
        parse_pipeline(text, "f.yaml")
    except PipelineProblems as error:
        return {f"{one.what} {one.fix}" for one in error.problems if one.line}
    return set()


@pytest.fixture(scope="module")
def alone() -> dict[str, set[str]]:
    """What the user reads about each mistake alone."""
    return {name: told(name) for name in MUTATIONS}


def test_each_is_one_mistake(alone):
    assert told() == set()
    assert {name: len(found) for name, found in alone.items() if len(found) != 1} == {}


@pytest.mark.parametrize("pair", [*combinations(MUTATIONS, 2)], ids=" and ".join)
def test_two_mistakes_are_both_told_and_nothing_else(alone, pair):
    hidden = {later for first, later in UNKNOWN if {first, later} == {*pair}}
    assert told(*pair) == set().union(*(alone[name] for name in pair if name not in hidden))


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
