"""pydantic's errors as sentences about the user's file.

pydantic reports a wrong field once for each alternative of a union, and a misspelt required field
as one missing and one extra: here each mistake is said once. Its errors name neither the fields
that a key could have meant nor their descriptions, so the specs are walked along the user's data:
the alternative of a union is the one with the data's `kind`.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from slimctl.jobs.base.errors import what_and_fix
from slimctl.jobs.base.facts import FieldError, MissingFile
from slimctl.jobs.base.placeholders import placeholders
from slimctl.jobs.base.refs import ref_types
from slimctl.jobs.base.registry import nearest
from slimctl.orchestrator.pipeline.diagnostics import KeyPath, Mistake, dotted, field_path

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
"""Names of pipelines and jobs: they become parts of file names."""
NAME_RULE = "1 to 64 letters, digits, '_', '-' or '.', the first one a letter or digit"
MAX_SHOWN = 60
"""Characters of the user's value that a message repeats."""
NOTHING = ("none", "nil", "undefined")
"""What other languages write for null."""
DECIMAL_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")
FRACTION = re.compile(r"([0-9.]*[0-9]) */ *([0-9]*[1-9][0-9]*)")
EMPTY = "something"
"""What a value of length 0 must be."""

_TYPES = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping with 'kind'",
    "none_required": "null",
}
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("above", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("below", "lt"),
    "multiple_of": ("a multiple of", "multiple_of"),
}


@dataclass(frozen=True)
class Subject:
    """What a set of fields belongs to, in words.

    Args:
        model: class of the fields.
        data: the fields as the user wrote them.
        path: where they stand in the pipeline.
        intro: begins each sentence, such as `job 'student': `.
        owner: has the fields, such as `anneal_reflow`.
        unfilled: whether placeholders stand for values that cannot be known.
    """

    model: type[BaseModel]
    data: Mapping[str, Any]
    path: KeyPath = ()
    intro: str = ""
    owner: str = "a pipeline"
    unfilled: bool = False


@dataclass
class LocatedError:
    """An error of pydantic's with its path in the user's data."""

    path: KeyPath
    details: ErrorDetails
    union: KeyPath | None
    """Path of the field whose alternatives were tried; None if there were none."""
    tagged: bool
    """Whether the alternative is the one that the `kind` of the user's value names."""


@dataclass
class _Wrong:
    """What is wrong at one path: phrases for what it must be."""

    value: Any
    phrases: list[str] = field(default_factory=list)


def explain(error: ValidationError, subject: Subject) -> list[Mistake]:
    """One mistake for each thing that is wrong, however often pydantic says it."""
    errors = located_errors(error, subject.data)
    names = [one for one in errors if one.details["type"] in ("missing", "extra_forbidden")]
    others = [one for one in errors if one not in names]
    if subject.unfilled:
        others = [one for one in others if not any(placeholders(one.details["input"]))]
    return [*_naming_mistakes(names, subject), *_value_mistakes(others, subject)]


def _naming_mistakes(errors: list[LocatedError], subject: Subject) -> list[Mistake]:
    """Unknown and missing keys; a missing key with an unknown one like it is a single mistake."""
    missing: dict[KeyPath, list[str]] = {}
    extra: dict[KeyPath, list[str]] = {}
    for one in errors:
        found = missing if one.details["type"] == "missing" else extra
        found.setdefault(one.path[:-1], []).append(str(one.path[-1]))
    mistakes: list[Mistake] = []
    for parent in dict.fromkeys([*extra, *missing]):
        unknown, absent = extra.get(parent, []), missing.get(parent, [])
        pairs = _misspelt(unknown, absent)
        mistakes += [_unknown(subject, parent, name, pairs.get(name)) for name in unknown]
        absent = [name for name in absent if name not in pairs.values()]
        mistakes += [_missing(subject, parent, name) for name in absent]
    return mistakes


def _misspelt(unknown: Iterable[str], absent: list[str]) -> dict[str, str]:
    """Unknown key -> missing key that is meant."""
    meant: dict[str, str] = {}
    for name in unknown:
        free = [one for one in absent if one not in meant.values()]
        close = difflib.get_close_matches(name, free, n=1)
        meant |= {name: close[0]} if close else {}
    return meant


def _unknown(subject: Subject, parent: KeyPath, name: str, meant: str | None) -> Mistake:
    owner = dotted(parent) or subject.owner
    what = f"{subject.intro}{owner} has no '{name}'"
    path = (*subject.path, *parent, name)
    if meant:
        key, colon, value = name.partition(":")
        fix = f"did you mean '{meant}'?"
        if colon and key == meant:
            fix = f"write '{key}: {value.strip()}', with a space after the colon"
        return Mistake(path, f"{what}, and '{meant}' is missing", fix)
    known = fields_at(subject, parent)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    unused = close or set(known) - set(value_at(subject.data, parent))
    return Mistake(path, what, nearest(name, unused) if unused else "remove it")


def _missing(subject: Subject, parent: KeyPath, name: str) -> Mistake:
    label = dotted((*parent, name))
    held = value_at(subject.data, parent)
    if isinstance(held, (list, tuple)):
        what = f"{subject.intro}{dotted(parent)} has too few items, {len(held)}"
        info = fields_at(subject, parent[:-1]).get(str(parent[-1]))
        return Mistake((*subject.path, *parent), what, f"add the rest{_described(info)}")
    info = fields_at(subject, parent).get(name)
    what = f"{subject.intro}{label} is missing"
    return Mistake((*subject.path, *parent), what, f"add '{name}: ...'{_described(info)}")


def _value_mistakes(errors: list[LocatedError], subject: Subject) -> Iterator[Mistake]:
    wrong: dict[KeyPath, _Wrong] = {}
    for one in errors:
        phrase = _phrase(one.details)
        if phrase is None:
            yield _mistake_of(one, subject)
        else:
            at_path = wrong.setdefault(one.path, _Wrong(one.details["input"]))
            at_path.phrases.append(phrase)
    for path, each in wrong.items():
        yield _must_be(subject, path, each)


def _must_be(subject: Subject, path: KeyPath, wrong: _Wrong) -> Mistake:
    """The value at a path is of the wrong type or out of range."""
    info = fields_at(subject, path[:-1]).get(str(path[-1])) if path else None
    phrases = dict.fromkeys(wrong.phrases)
    if info is not None and ref_types(info.annotation) and "text" in phrases:
        phrases = dict.fromkeys("the name of a job" if p == "text" else p for p in phrases)
    wanted = " or ".join(phrases)
    label = dotted(path) or subject.owner
    what = f"{subject.intro}{label} must be {wanted}, not {shown(wrong.value)}"
    if wanted == EMPTY:
        what = f"{subject.intro}{label} must not be empty"
    fix = _value_fix(wrong, wanted, info) or f"set {label} to {wanted}{_described(info)}"
    return Mistake((*subject.path, *path), what, fix, "value")


def _value_fix(wrong: _Wrong, wanted: str, info: FieldInfo | None) -> str:
    """What to write instead, where that can be known from the value; else ""."""
    value = wrong.value
    if wanted == "text" and isinstance(value, (int, float)):
        return f"put it in quotes: '{shown(value)}'"
    if not isinstance(value, str):
        return ""
    if wanted == NAME_RULE:
        return name_fix(value)
    if value.lower() in NOTHING:
        return "write null, or leave it out"
    if "number" in wanted and DECIMAL_COMMA.fullmatch(value):
        return f"write it with a point: {value.replace(',', '.')}"
    if "number" in wanted and (parts := FRACTION.fullmatch(value)):
        return f"nothing is computed here: write {float(parts[1]) / float(parts[2]):g}"
    kind = difflib.get_close_matches(value, kinds_of(info) if info else (), n=1)
    if kind:
        return f"write '{{kind: {kind[0]}, ...}}'"
    choice = difflib.get_close_matches(value, re.findall(r"'([^']*)'", wanted), n=1)
    return f"did you mean '{choice[0]}'?" if choice else ""


def name_fix(name: str) -> str:
    """A name like this one that is allowed."""
    close = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("_.-")[:64]
    return f"call it '{close}'" if close else "choose a name such as 'student'"


def truth_mistakes(subject: Subject) -> Iterator[Mistake]:
    """Numbers given as true or false, which pydantic takes for 1 and 0."""
    stack: list[tuple[KeyPath, Any]] = [((), subject.data)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, Mapping):
            stack += [((*path, key), item) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            stack += [((*path, number), item) for number, item in enumerate(value)]
        elif isinstance(value, bool) and _is_number(subject, path):
            what = f"{subject.intro}{dotted(path)} must be a number, not {shown(value)}"
            fix = f"set {dotted(path)} to a number"
            yield Mistake((*subject.path, *path), what, fix, "value")


def _is_number(subject: Subject, path: KeyPath) -> bool:
    named = [number for number, part in enumerate(path) if isinstance(part, str)]
    if not named:
        return False
    info = fields_at(subject, path[: named[-1]]).get(str(path[named[-1]]))
    types = types_in(info.annotation) if info else set()
    return bool(types & {int, float}) and bool not in types


def _phrase(details: ErrorDetails) -> str | None:
    """What the value must be; None if the error is no matter of type or range."""
    kind, context = details["type"], details.get("ctx", {})
    if kind in _TYPES:
        return _TYPES[kind]
    if kind in _LIMITS:
        word, limit = _LIMITS[kind]
        return f"{word} {shown(context[limit])}"
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "is_instance_of" and context.get("class") == "Ref":
        return "text"
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return NAME_RULE if pattern == NAME_PATTERN else f"text like {pattern}"
    if kind in ("too_short", "string_too_short"):
        least = context["min_length"]
        return EMPTY if least == 1 else f"of length {least} or more"
    if kind in ("too_long", "string_too_long"):
        return f"of length {context['max_length']} or less"
    return None


def _mistake_of(one: LocatedError, subject: Subject) -> Mistake:
    """An error with a sentence of its own."""
    details, path = one.details, one.path
    context = details.get("ctx", {})
    label = f"{dotted(path)}: " if path else ""
    if details["type"] == "union_tag_invalid":
        kinds = [kind.strip(" '") for kind in context["expected_tags"].split(",")]
        what = f"{subject.intro}{dotted(path)} has no kind '{context['tag']}'"
        fix = nearest(str(context["tag"]), kinds)
        return Mistake((*subject.path, *path, "kind"), what, fix, "value")
    if details["type"] == "union_tag_not_found":
        info = fields_at(subject, path[:-1]).get(str(path[-1]))
        what = f"{subject.intro}{dotted(path)} needs a kind"
        fix = f"add 'kind: ...', one of {', '.join(kinds_of(info) if info else ())}"
        return Mistake((*subject.path, *path), what, fix)
    cause = context.get("error")
    if cause is not None:
        return contradiction(cause, subject, path)
    what, fix = what_and_fix(details["msg"])
    return Mistake((*subject.path, *path), f"{subject.intro}{label}{what}", fix, "value")


def contradiction(error: ValueError, subject: Subject, path: KeyPath = ()) -> Mistake:
    """What a rule about several fields says."""
    if isinstance(error, FieldError):
        path = (*path, *error.field.split("."))
        return Mistake((*subject.path, *path), f"{subject.intro}{error.what}", error.fix)
    what, fix = what_and_fix(error)
    label = f"{dotted(path)}: " if path else ""
    return Mistake((*subject.path, *path), f"{subject.intro}{label}{what}", fix, "value")


def field_mistake(job: str, error: FieldError) -> Mistake:
    """The mistake behind a FieldError of a job."""
    path = field_path(job, error.field)
    what, fix = what_and_fix(error.what)  # specs of models say both in one
    named = what.startswith(error.field.rpartition(".")[2])
    what = f"job '{job}': {what}" if named else f"job '{job}', {error.field}: {what}"
    fix = error.fix or fix
    missing = isinstance(error, MissingFile)
    if missing:
        option = f"--set {'.'.join(map(str, path))}=PATH"
        fix = f"{fix}; or say where it is with {option}" if fix else f"say where it is: {option}"
    return Mistake(path, what, fix, missing_file=missing)


def shown(value: Any) -> str:
    """The user's value as a file has it, shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping" if value else "{}"
    text = repr(value).removesuffix(".0") if isinstance(value, float) else repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def _described(info: FieldInfo | None) -> str:
    text = (info.description or "") if info else ""
    return f" ({' '.join(text.split()).rstrip('.')})" if text else ""


def value_at(data: Any, path: KeyPath) -> Any:
    """The value that a path leads to."""
    for part in path:
        data = data[part]
    return data


def fields_at(subject: Subject, path: KeyPath) -> Mapping[str, FieldInfo]:
    """Fields of the spec that stands at a path; {} if there is none."""
    models: list[type[BaseModel]] = [subject.model]
    here: Any = subject.data
    for part in path:
        here = here[part]
        if isinstance(part, int):
            continue
        infos = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [model for info in infos for model in models_in(info.annotation)]
        kind = here.get("kind") if isinstance(here, Mapping) else None
        models = [model for model in models if kind in _kinds(model)] or models
    return {name: info for model in models for name, info in model.model_fields.items()}


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """All specs that a field of this annotation can hold, subclasses included."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        below = [model for sub in annotation.__subclasses__() for model in models_in(sub)]
        return [annotation, *below]
    return [model for part in get_args(annotation) for model in models_in(part)]


def _kinds(model: type[BaseModel]) -> tuple[str, ...]:
    info = model.model_fields.get("kind")
    return get_args(info.annotation) if info else ()


def kinds_of(info: FieldInfo) -> tuple[str, ...]:
    """Values of `kind` that the specs of a field have."""
    return tuple(kind for model in models_in(info.annotation) for kind in _kinds(model))


def types_in(annotation: Any) -> set[Any]:
    """An annotation and everything inside it."""
    return {annotation}.union(*(types_in(part) for part in get_args(annotation)))


def located_errors(error: ValidationError, data: Any) -> list[LocatedError]:
    """The errors that say what is wrong with the user's data."""
    return _best_alternatives([_located(one, data) for one in error.errors() if not _follows(one)])


def _follows(details: ErrorDetails) -> bool:
    """Whether a list is called too short only because items of it are wrong."""
    given, context = details["input"], details.get("ctx", {})
    is_list = isinstance(given, (list, tuple))
    return details["type"] == "too_short" and is_list and len(given) >= context["min_length"]


def _located(details: ErrorDetails, data: Any) -> LocatedError:
    """Follows pydantic's location through the data, leaving out what names no key of it."""
    *inner, last = details["loc"] or (None,)
    extra = details["type"] == "extra_forbidden"  # then the last part is a key, never a tag
    path: list[str | int] = []
    union: KeyPath | None = None
    here, tagged, by_kind = data, False, False
    for at, part in enumerate(inner if details["type"] == "missing" else details["loc"]):
        key = extra and at == len(inner)
        if not (tagged or key) and isinstance(here, Mapping) and here.get("kind") == part:
            tagged, by_kind = True, by_kind or union is not None
        elif _holds(here, part):
            path.append(part)
            here, tagged = here[part], False
        elif union is None:
            union = tuple(path)
    if details["type"] == "missing" and last is not None:
        path.append(last)
    return LocatedError(tuple(path), details, union, by_kind)


def _holds(here: Any, part: str | int) -> bool:
    if isinstance(part, int):
        return isinstance(here, (list, tuple)) and part < len(here)
    return isinstance(here, Mapping) and part in here


def _best_alternatives(errors: list[LocatedError]) -> list[LocatedError]:
    """Of a union's alternatives the one of the value's `kind`, else those that fit furthest down.

    A mapping with a `kind` that does not exist was meant for the alternatives that have kinds.
    """
    misnamed = {one.union for one in errors if one.details["type"] == "union_tag_invalid"}
    errors = [
        one
        for one in errors
        if one.union not in misnamed - {None} or one.details["type"] == "union_tag_invalid"
    ]
    named = {one.union for one in errors if one.tagged}
    errors = [one for one in errors if one.tagged or one.union not in named]
    depth: dict[KeyPath, int] = {}
    for one in errors:
        if one.union is not None and not one.tagged:
            depth[one.union] = max(depth.get(one.union, 0), len(one.path))
    return [
        one
        for one in errors
        if one.union is None or one.tagged or len(one.path) == depth[one.union]
    ]
