"""The jobs of trials, built and checked without running them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Doubt, Facts, FieldError
from slimctl.jobs.base.placeholders import in_words
from slimctl.jobs.base.refs import iter_refs, ref_types
from slimctl.jobs.base.registry import handle_types, load_kind, nearest
from slimctl.jobs.base.spec import BY_CONTENT, JobSpec, output_type
from slimctl.jobs.base.subgraph import in_order, trial_spec


@dataclass
class Findings:
    """What is wrong and what is doubtful about some trials, each thing once."""

    errors: list[FieldError] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)


def look_at(
    templates: Mapping[str, Any],
    trials: Iterable[Mapping[str, Any]],
    seed: int | None,
    known: Mapping[str, Facts],
) -> Findings:
    """Builds and checks the jobs of some trials.

    Args:
        templates: name -> plain data of a job.
        trials: values of the variables, one mapping for each trial.
        seed: of the jobs that name none.
        known: facts of each job outside, by name.

    Returns:
        Mistakes that several trials share with the values of the first; a doubt without values.
    """
    errors: dict[tuple[str, str], FieldError] = {}
    doubts: dict[Doubt, None] = {}
    for values in trials:
        found = _one(templates, values, seed, known)
        shown = in_words(values)
        for error in found.errors:
            told = FieldError(error.field, f"with {shown}: {error.what}", error.fix)
            errors.setdefault((error.field, error.what), told)
        doubts |= dict.fromkeys(found.doubts)
    return Findings(list(errors.values()), list(doubts))


def _one(
    templates: Mapping[str, Any],
    values: Mapping[str, Any],
    seed: int | None,
    known: Mapping[str, Facts],
) -> Findings:
    """One trial; its errors do not name the values."""
    found, specs, facts = Findings(), {}, dict(known)
    for name, template in templates.items():
        facts[name] = Facts(made=output_type(load_kind(template["kind"])).__name__)
        try:
            specs[name] = trial_spec(template, values, seed)
        except ValidationError as error:
            found.errors += _refused(name, template, error)
        except (UserError, ValueError) as error:
            found.errors.append(FieldError(f"jobs.{name}", str(error)))
    try:
        ordered = in_order(specs)
    except ValueError as error:
        found.errors.append(FieldError("jobs", str(error)))
        return found
    for name, spec in ordered.items():
        inputs = {place: facts.get(ref.job, Facts()) for place, ref in iter_refs(spec)}
        misfits = _misfits(name, spec, facts)
        if misfits:
            found.errors += misfits
            continue
        found.doubts += [
            Doubt(f"jobs.{name}.{doubt.field}", doubt.what, doubt.fix)
            for doubt in spec.doubts(inputs)
        ]
        try:
            expected = spec.expect(inputs)
        except FieldError as error:
            expected = error.facts
            found.errors += [
                FieldError(f"jobs.{name}.{one.field}", one.what, one.fix) for one in error.each
            ]
        facts[name] = replace(expected, made=facts[name].made)
    return found


def _refused(name: str, template: Mapping[str, Any], error: ValidationError) -> list[FieldError]:
    """Each value of a job that its kind refuses, at its place in the template."""
    found: dict[str, FieldError] = {}
    for one in error.errors():
        cause = one.get("ctx", {}).get("error")
        if isinstance(cause, FieldError):
            each = [FieldError(f"jobs.{name}.{it.field}", it.what, it.fix) for it in cause.each]
        else:
            place = ".".join(["jobs", name, *_written(template, one)])
            each = [FieldError(place, _said(one), _hint(template, one))]
        for said in each:
            found.setdefault(said.field, said)
    # What another alternative of a union says of the whole value is left out.
    inner = [place for place in found if not any(other.startswith(f"{place}.") for other in found)]
    return [found[place] for place in inner]


def _written(template: Any, error: ErrorDetails) -> list[str]:
    """The part of pydantic's place that the template has; names of alternatives are left out."""
    parts: list[str] = []
    for part in error["loc"]:
        try:
            template = template[part]
        except (KeyError, IndexError, TypeError):
            continue
        parts.append(str(part))
    return [*parts, str(error["loc"][-1])] if error["type"] == "missing" else parts


def _said(error: ErrorDetails) -> str:
    """What is wrong, with the user's value where it is short."""
    if error["type"] == "missing":
        return f"'{error['loc'][-1]}' is missing"
    if error["type"] == "extra_forbidden":
        return f"there is no '{error['loc'][-1]}'"
    value = error["input"]
    return error["msg"] if isinstance(value, (dict, list)) else f"{error['msg']}, not {value!r}"


def _hint(template: Mapping[str, Any], error: ErrorDetails) -> str:
    """The field that an unknown one of the job itself may mean."""
    if error["type"] != "extra_forbidden" or len(error["loc"]) != 1:
        return ""
    fields = set(load_kind(template["kind"]).model_fields) - set(template)
    return nearest(str(error["loc"][0]), fields)


def _misfits(name: str, spec: JobSpec, facts: Mapping[str, Facts]) -> list[FieldError]:
    """Inputs of a job that make something else than it takes."""
    found = []
    for place, ref in iter_refs(spec):
        accepted = ref_types(type(spec).model_fields[place.partition(".")[0]].annotation)
        made = facts.get(ref.job, Facts()).made
        if made and made not in _names(accepted):
            needs = f"'{name}' needs {' or '.join(one.__name__ for one in accepted)} as {place}"
            what = f"{needs}, but '{ref.job}' makes a {made}"
            found.append(FieldError(f"jobs.{name}.{place}", what))
    return found


def _names(types: tuple[type, ...]) -> set[str]:
    """Names of handle types and those that are one of them."""
    return {made.__name__ for made in handle_types() if issubclass(made, types)}


def read_outside(jobs: Iterable[tuple[str, JobSpec]]) -> list[FieldError]:
    """Reads what jobs of trials take from outside; tells once what is wrong with it."""
    found: dict[tuple[str, str], FieldError] = {}
    for name, spec in jobs:
        fields = type(spec).model_fields
        marked = [key for key, info in fields.items() if BY_CONTENT in info.metadata]
        errors: Sequence[FieldError] = ()
        try:
            spec.preflight()
        except FieldError as error:
            errors = error.each
        except UserError as error:
            where = f"{error.where}: " if error.where else ""
            errors = [FieldError(marked[0] if marked else "kind", where + error.what, error.fix)]
        except OSError as error:
            what = f"{error.filename or 'its input'} cannot be read: {error.strerror or error}"
            errors = [FieldError(marked[0] if marked else "kind", what)]
        for one in errors:
            told = FieldError(f"jobs.{name}.{one.field}", one.what, one.fix)
            found.setdefault((told.field, told.what), told)
    return list(found.values())
