"""A group with every default spelt out, so that its saved form says all that its jobs do.

What all iterations have in common is written down; what differs between them stays a placeholder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slimctl.jobs.base.placeholders import fill
from slimctl.jobs.base.spec import JobSpec
from slimctl.orchestrator.expansion import Expansion
from slimctl.orchestrator.graph import ref_fields
from slimctl.orchestrator.groups import Group, Iteration, Origin


def spelt_out(name: str, group: Group, specs: Mapping[str, JobSpec], made: Expansion) -> Group:
    """A group whose jobs name every field that is the same in all iterations.

    Args:
        name: of the group.
        group: as written.
        specs: every job by itself, with seeds and paths filled in.
        made: where they are from.
    """
    iterations = made.iterations[name]
    jobs = {}
    for member, template in group.jobs.items():
        mine = [specs[Origin(name, one.name, member).name] for one in iterations]
        jobs[member] = _spelt_job(template, mine, iterations)
    return group.model_copy(update={"jobs": jobs})


def _spelt_job(
    template: Mapping[str, Any], specs: Sequence[JobSpec], iterations: Sequence[Iteration]
) -> Any:
    kinds = {type(spec) for spec in specs}
    if len(kinds) > 1:
        return template
    kept = {"kind": template["kind"]}
    kept |= {key: template[key] for key in ref_fields(kinds.pop()) if key in template}
    rest = {key: value for key, value in template.items() if key not in kept}
    distinct: dict[int, JobSpec] = {id(spec): spec for spec in specs}
    dumps = {key: spec.model_dump(mode="json") for key, spec in distinct.items()}
    values = [
        {key: value for key, value in dumps[id(spec)].items() if key not in kept} for spec in specs
    ]
    return {**kept, **_spelt(rest, values, iterations)}


def _spelt(template: Any, values: Sequence[Any], iterations: Sequence[Iteration]) -> Any:
    """A value of the template, given what it is in each iteration."""
    if isinstance(template, Mapping) and all(isinstance(value, Mapping) for value in values):
        common = [key for key in values[0] if all(key in value for value in values)]
        found = {}
        for key in common:
            inner = [value[key] for value in values]
            if key in template:
                found[key] = _spelt(template[key], inner, iterations)
            elif all(value == inner[0] for value in inner):
                found[key] = inner[0]
        return {**template, **found}
    if "${" not in str(template):
        return values[0] if all(value == values[0] for value in values) else template
    return _absolute(template, values, iterations) if isinstance(template, str) else template


def _absolute(template: str, values: Sequence[Any], iterations: Sequence[Iteration]) -> str:
    """A path with placeholders from the root, if that is what it became in every iteration."""
    short = template.removeprefix("./")
    root = f"{Path.cwd()}/"
    filled = [fill(short, one.values) for one in iterations]
    if all(f"{root}{text}" == value for text, value in zip(filled, values, strict=True)):
        return root.replace("${", "$${") + short
    return template
