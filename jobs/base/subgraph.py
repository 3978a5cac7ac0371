"""A small graph of jobs inside a job: templates filled with the values of one trial."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.keys import artifact_id, job_key
from slimctl.jobs.base.placeholders import fill, placeholders
from slimctl.jobs.base.refs import iter_refs, ref_types
from slimctl.jobs.base.registry import load_kind, parse_job
from slimctl.jobs.base.spec import JobSpec, SeededJobSpec


@dataclass(frozen=True)
class SubJob:
    """A job of a trial, with the address of its result.

    Args:
        name: in its template.
        spec: with its values filled in.
        inputs: job name -> artifact id of every input.
        artifact: id of its result.
        fingerprint: content of outside files.
    """

    name: str
    spec: JobSpec
    inputs: Mapping[str, str]
    artifact: str
    fingerprint: Mapping[str, str]


def outside_names(templates: Mapping[str, Any], choices: Mapping[str, list[Any]]) -> list[str]:
    """Jobs that templates name and that are none of them, each once.

    Args:
        templates: name -> plain data with `kind`.
        choices: variable -> its values, where they can be counted: they may name jobs too.

    Raises:
        UserError: an unknown kind, or a job named by a variable without choices.
    """
    found: dict[str, None] = {}
    for template in templates.values():
        cls = load_kind(str(template["kind"]))
        for field in _ref_fields(cls):
            for text in _texts(template.get(field)):
                found |= dict.fromkeys(_meant(text, choices))
    return [name for name in found if name not in templates]


def _meant(text: str, choices: Mapping[str, list[Any]]) -> list[str]:
    """The jobs that a text names, with every combination of its variables' choices.

    Raises:
        UserError: a variable has no choices to count.
    """
    names = list(dict.fromkeys(name for _, name in placeholders(text)))
    if any(name not in choices for name in names):
        return []  # that there is no such variable is told elsewhere
    for name in names:
        if not choices[name]:
            what = f"'{text}' names jobs by '{name}', which is a range: they cannot be counted"
            raise UserError("jobs", what, f"give '{name}' a choice")
    combinations = product(*(choices[name] for name in names))
    filled = [fill(text, dict(zip(names, values, strict=True))) for values in combinations]
    return [name for name in filled if isinstance(name, str)]


def _ref_fields(cls: type[JobSpec]) -> Iterator[str]:
    yield from (name for name, info in cls.model_fields.items() if ref_types(info.annotation))


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def trial_specs(
    templates: Mapping[str, Any], values: Mapping[str, Any], seed: int | None
) -> dict[str, JobSpec]:
    """The specs of one trial, each after its inputs.

    Args:
        templates: name -> plain data with `kind`.
        values: of the variables.
        seed: of the jobs that draw and name none.

    Raises:
        UserError: an unknown kind.
        ValueError: jobs that need each other in a circle.
        pydantic.ValidationError: a value that a job refuses.
    """
    return in_order(
        {name: trial_spec(template, values, seed) for name, template in templates.items()}
    )


def in_order(specs: Mapping[str, JobSpec]) -> dict[str, JobSpec]:
    """Jobs, each after its inputs.

    Raises:
        ValueError: some need each other in a circle.
    """
    ordered: dict[str, JobSpec] = {}
    while len(ordered) < len(specs):
        ready = [
            name
            for name, spec in specs.items()
            if name not in ordered
            and all(ref.job in ordered or ref.job not in specs for _, ref in iter_refs(spec))
        ]
        if not ready:
            rest = [name for name in specs if name not in ordered]
            raise ValueError(f"the jobs {', '.join(rest)} need each other in a circle")
        ordered |= {name: specs[name] for name in ready}
    return ordered


def trial_spec(template: Mapping[str, Any], values: Mapping[str, Any], seed: int | None) -> JobSpec:
    """The spec of one job of a trial.

    Raises:
        UserError: an unknown kind.
        pydantic.ValidationError: a value that the job refuses.
    """
    filled = fill(template, values)
    spec = parse_job(filled["kind"], {key: item for key, item in filled.items() if key != "kind"})
    if isinstance(spec, SeededJobSpec) and spec.seed is None:
        return spec.model_copy(update={"seed": seed})
    return spec


def trial_jobs(specs: Mapping[str, JobSpec], outside: Mapping[str, str]) -> list[SubJob]:
    """The jobs of a trial with their addresses, inputs first.

    Args:
        specs: each after its inputs.
        outside: name of an outside job -> artifact id of its result.
    """
    ids = dict(outside)
    found = []
    for name, spec in specs.items():
        inputs = {ref.job: ids[ref.job] for _, ref in iter_refs(spec)}
        fingerprint = spec.fingerprint()
        ids[name] = artifact_id(spec, job_key(spec, inputs, fingerprint))
        found.append(SubJob(name, spec, inputs, ids[name], fingerprint))
    return found
