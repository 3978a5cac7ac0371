"""Recipes: one entry of `jobs` that stands for several stages with settings of their own.

    small: {recipe: pairs_then_matching, teacher: teacher, pairs: pairs, data: data, network: ...}

The last stage bears the entry's name, the ones before it that name with an ending, `small-start`.
The stages stand in the pipeline as if they had been written out, so that results, keys and
messages are those of ordinary jobs; what is wrong with one is said at the line of the entry.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from slimctl.jobs.base.registry import load_kind, nearest
from slimctl.orchestrator.pipeline.diagnostics import KeyPath, Problem
from slimctl.orchestrator.pipeline.source import Document, Node

KEY = "recipe"


@dataclass(frozen=True)
class Stage:
    """A job of a recipe.

    Args:
        kind: of the job.
        settings: its fields where the user says nothing; `{name}` is the entry's name.
        takes: field of the entry -> field of the job. Fields of the same name need no entry here.
        leaves: fields of the kind that are not the user's to set here.
    """

    kind: str
    settings: Mapping[str, Any]
    takes: Mapping[str, str]
    leaves: frozenset[str]

    def field(self, name: str) -> str | None:
        """The field of the job that one of the entry is; None if it is none of this stage's."""
        if name in self.takes:
            return self.takes[name]
        own = name in load_kind(self.kind).model_fields and name not in self.takes.values()
        return name if own and name not in self.leaves else None


RECIPES: Mapping[str, Mapping[str, Stage]] = {
    "pairs_then_matching": {
        "-start": Stage(
            "distill",
            {
                "two_step_weight": 0,
                "distance": {"kind": "huber"},
                "steps": 1500,
                "batch_size": 64,
                "learning_rate": 2e-3,
                "warmup": 50,
                "decay": "cosine",
            },
            {"pair_steps": "steps", "pair_learning_rate": "learning_rate"},
            frozenset(
                ("data", "features", "score_every", "score_samples", "critic", "start", "guide",
                 "recipe", "distance", "pair_weight")
            ),
        ),
        "": Stage(
            "match_distribution",
            {
                "start": "{name}-start",
                "fake_updates": 2,
                "steps": 500,
                "batch_size": 32,
                "pair_batch": 16,
                "learning_rate": 5e-4,
                "fake_learning_rate": 1.5e-3,
                "warmup": 50,
                "decay": "cosine",
            },
            {},
            frozenset(("network", "start")),
        ),
    },
}  # fmt: skip
"""Name -> ending of a stage's name -> the stage, in order; "" is the result.

`pairs_then_matching`: a student regressed on pairs until its samples vary, then matched to the
teacher's distribution with the pairs beside it (benchmarks/README.md has what it was compared
with)."""


def with_recipes(document: Document) -> tuple[Document, list[Problem]]:
    """The document with every recipe written out, in groups too, and what is wrong with them."""
    problems: list[Problem] = []
    for path in [("jobs",), *_groups(document)]:
        jobs = document.node(path)
        if jobs is None or not isinstance(jobs.value, dict):
            continue
        made = {
            name: node
            for given, entry in jobs.value.items()
            for name, node in _stages(str(given), entry, jobs.value, problems)
        }
        if made.keys() != jobs.value.keys() or any(_is_recipe(one) for one in jobs.value.values()):
            document = document.with_node(path, Node(made, jobs.place, jobs.key))
    return document, problems


def _groups(document: Document) -> Iterator[KeyPath]:
    """Paths of the jobs of groups and searches."""
    jobs = document.node(("jobs",))
    for name, entry in jobs.value.items() if jobs and isinstance(jobs.value, dict) else ():
        if entry.child("jobs") is not None:
            yield ("jobs", name, "jobs")


def _is_recipe(entry: Node) -> bool:
    return (
        isinstance(entry.value, dict) and entry.child("kind") is None
        and entry.child(KEY) is not None
    )  # fmt: skip


def _stages(
    name: str, entry: Node, others: Mapping[str, Node], problems: list[Problem]
) -> Iterator[tuple[str, Node]]:
    """The jobs that an entry stands for: itself, where it names no recipe."""
    if not _is_recipe(entry):
        yield name, entry
        return
    asked: Node = entry.value[KEY]
    stages = RECIPES.get(str(asked.plain()))
    if stages is None:
        what = f"job '{name}': there is no recipe {asked.plain()!r}"
        problems.append(Problem(*asked.place, what, nearest(str(asked.plain()), RECIPES)))
        stages = next(iter(RECIPES.values()))  # so that what names its jobs finds them
    fields: dict[str, Node] = {key: node for key, node in entry.value.items() if key != KEY}
    problems += _wrong_fields(name, fields, stages)
    for ending, stage in stages.items():
        full = f"{name}{ending}"
        if ending and full in others:
            what = f"job '{name}': its stage '{full}' has the name of another job"
            problems.append(Problem(*entry.key, what, "give one of the two another name"))
        settings = {"kind": stage.kind, **stage.settings}
        made = {key: _node(value, name, asked) for key, value in settings.items()}
        for key, node in fields.items():
            own = stage.field(key)
            made |= {own: node} if own else {}
        yield full, Node(made, entry.place, entry.key)


def _wrong_fields(
    name: str, fields: Mapping[str, Node], stages: Mapping[str, Stage]
) -> Iterator[Problem]:
    """Fields that no stage takes."""
    for key, node in fields.items():
        if not any(stage.field(key) for stage in stages.values()):
            known = {each for stage in stages.values() for each in _known(stage)}
            what = f"job '{name}': the recipe takes no '{key}'"
            yield Problem(*node.key, what, nearest(key, known))


def _known(stage: Stage) -> Iterator[str]:
    yield from stage.takes
    yield from (name for name in load_kind(stage.kind).model_fields if stage.field(name))


def _node(value: Any, name: str, asked: Node) -> Node:
    """A setting of a recipe, which stands where the recipe is named."""
    if isinstance(value, Mapping):
        value = {key: _node(one, name, asked) for key, one in value.items()}
    elif isinstance(value, str):
        value = value.replace("{name}", name)
    return Node(value, asked.place, asked.key)
