"""The fields of a job kind in words: type, default and meaning, from its JSON schema."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from slimctl.jobs.base.refs import ref_types, takes_many
from slimctl.jobs.base.spec import JobSpec

Schema = Mapping[str, Any]
WIDTH = 100
MOST_FIELDS = 4
"""Fields of a nested mapping that are named; networks have a page of them."""
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


class FieldText(NamedTuple):
    """A field of a kind in words."""

    name: str
    type: str
    default: str
    about: str


def fields_of(spec: type[JobSpec]) -> Iterator[FieldText]:
    """Every field of a kind, the required ones first."""
    schema = spec.model_json_schema()
    required = set(schema.get("required", ()))
    for name in sorted(schema["properties"], key=lambda name: name not in required):
        field = schema["properties"][name]
        default = "required" if name in required else json.dumps(field.get("default"))
        about = " ".join(field.get("description", "").split())
        yield FieldText(name, _type_of(spec, name, field, schema.get("$defs", {})), default, about)


def field_lines(spec: type[JobSpec]) -> Iterator[str]:
    """Lines about every field, each with what it means."""
    for name, kind, default, about in fields_of(spec):
        default = default if default == "required" else f"default {default}"
        yield from textwrap.wrap(f"  {name}: {kind} ({default})", WIDTH, subsequent_indent="    ")
        yield from textwrap.wrap(about, WIDTH, initial_indent="      ", subsequent_indent="      ")


def _type_of(spec: type[JobSpec], name: str, field: Schema, defs: Schema) -> str:
    annotation = spec.model_fields[name].annotation
    made = " or ".join(cls.__name__ for cls in ref_types(annotation))
    if not made:
        return in_words(field, defs)
    return f"jobs that make {made}" if takes_many(annotation) else f"a job that makes {made}"


def in_words(schema: Schema, defs: Schema) -> str:
    """What a value of a schema looks like."""
    if "$ref" in schema:
        return in_words(defs[schema["$ref"].rpartition("/")[2]], defs)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            every = [in_words(one, defs) for one in schema[union]]
            return " or ".join(dict.fromkeys(every))
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    return _plain(schema, defs)


def _plain(schema: Schema, defs: Schema) -> str:
    kind = schema.get("type")
    if kind == "object":
        return _mapping(schema)
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(in_words(one, defs) for one in schema['prefixItems'])}]"
        return f"list of {in_words(schema.get('items', {}), defs)}"
    names = {"integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}
    bounds = " and ".join(f"{sign} {schema[key]}" for key, sign in BOUNDS.items() if key in schema)
    return f"{names.get(str(kind), 'text' if kind else 'any value')} {bounds}".strip()


def _mapping(schema: Schema) -> str:
    fields = schema.get("properties")
    if not fields:
        return "mapping"
    kind = fields.get("kind", {}).get("const")
    named = [name for name in fields if name != "kind"]
    shown = named if len(named) <= MOST_FIELDS else [*named[:MOST_FIELDS], "..."]
    return f"{{{', '.join([f'kind: {kind}', *shown] if kind else shown)}}}"
