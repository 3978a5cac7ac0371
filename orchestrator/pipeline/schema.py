"""The JSON schema of a pipeline file, with which editors complete and check it while one types."""

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from slimctl.jobs.base.placeholders import VARIABLE_PATTERN
from slimctl.jobs.base.registry import kind_names, load_kind
from slimctl.jobs.base.spec import JobSpec, many_ref_fields, ref_fields
from slimctl.orchestrator.pipeline.explain import NAME_PATTERN
from slimctl.orchestrator.pipeline.groups import MEMBER_PATTERN, Group
from slimctl.orchestrator.pipeline.pipeline import Pipeline
from slimctl.orchestrator.pipeline.recipes import RECIPES
from slimctl.orchestrator.pipeline.source import ASIDE

DEFINITIONS = "#/$defs/{model}"
TEMPLATE = "InGroup"
PLACEHOLDER = {"type": "string", "pattern": r"\$\{"}
RUNNING = ("Resources", "Price", "Budget", "Notify", "Webhook", "Mail", "Command")
"""Definitions of what a pipeline says beside its jobs."""
LITERAL = frozenset({"const", "enum", "default", "required", "mapping", "examples"})
"""Keys of a schema that hold values, not schemas."""


def pipeline_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a pipeline file, over all installed kinds.

    A job's fields are chosen by its `kind`; a field that takes another job's result is text.
    """
    kinds = {name: load_kind(name) for name in kind_names()}
    schemas, definitions = models_json_schema(
        [(cls, "validation") for cls in kinds.values()], ref_template=DEFINITIONS
    )
    definitions = definitions["$defs"]
    references = {name: schemas[cls, "validation"]["$ref"] for name, cls in kinds.items()}
    for name, cls in kinds.items():
        _complete(definitions[references[name].rpartition("/")[2]], name, cls)
    templates = {f"{name}{TEMPLATE}": _template(each) for name, each in definitions.items()}
    in_groups = {name: f"{reference}{TEMPLATE}" for name, reference in references.items()}
    schema = _frame()
    schema["$defs"] |= {**definitions, **templates, "Group": _group(in_groups)}
    schema["properties"]["jobs"] |= {
        "minProperties": 1,
        "propertyNames": {"pattern": NAME_PATTERN},
        "additionalProperties": {
            "if": {"required": ["for_each"], "not": {"required": ["kind"]}},
            "then": {"$ref": DEFINITIONS.format(model="Group")},
            "else": _one_of_kinds(references),
        },
    }
    return schema


def _group(references: dict[str, str]) -> dict[str, Any]:
    """A group: its variables, and jobs in which any value can be a placeholder."""
    group = Group.model_json_schema()
    names = {"pattern": VARIABLE_PATTERN}
    some = {"minItems": 1, "type": "array"}
    values = {"anyOf": [some, {"type": "object", "minProperties": 1}, {"type": "string"}]}
    product = {"type": "object", "propertyNames": names, "additionalProperties": values}
    row = {"type": "object", "propertyNames": names, "minProperties": 1}
    group["properties"]["for_each"] |= {
        "anyOf": [{**product, "minProperties": 1}, {**some, "items": row}]
    }
    group["properties"]["jobs"] |= {
        "propertyNames": {"pattern": MEMBER_PATTERN},
        "additionalProperties": _one_of_kinds(references),
    }
    return group


def _template(schema: Any) -> Any:
    """A schema in which any value below the first can be a placeholder."""
    if isinstance(schema, list):
        return [_template(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: value if key in LITERAL else _template(value) for key, value in schema.items()}
    if "$ref" in made:
        made["$ref"] += TEMPLATE
    if "mapping" in made:  # of a discriminator
        made["mapping"] = {key: ref + TEMPLATE for key, ref in made["mapping"].items()}
    if "properties" in schema:
        made["properties"] = {
            name: value if name == "kind" else {"anyOf": [_template(value), PLACEHOLDER]}
            for name, value in schema["properties"].items()
        }
    return made


def _frame() -> dict[str, Any]:
    """The schema without its jobs."""
    frame = Pipeline.model_json_schema(ref_template=DEFINITIONS)
    own = frame.pop("$defs")
    own["Notify"] = {"anyOf": [own["Notify"], own["Notify"]["properties"]["channels"]]}
    description = frame["properties"]["jobs"].get("description", "")
    frame["properties"]["jobs"] = {"type": "object", "description": description}
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        **frame,
        "$defs": {name: one for name, one in own.items() if name in RUNNING},
        "title": "slimctl pipeline",
        "description": "Named jobs that take each other's results.",
        "patternProperties": {f"^{ASIDE}": {"description": "A place for anchors; ignored."}},
    }


def _complete(schema: dict[str, Any], kind: str, cls: type[JobSpec]) -> None:
    """Adds `kind` to the schema of a kind, and what its references refer to."""
    properties, many = schema["properties"], many_ref_fields(cls)
    for name, types in ref_fields(cls).items():
        made = " or ".join(one.__name__ for one in types)
        about = properties[name].get("description", "")
        names = "Names of jobs that make" if name in many else "Name of a job that makes"
        properties[name]["description"] = f"{about} {names}: {made}.".strip()
        if name in many:
            one = {"type": "string", "minLength": 1}
            properties[name] = {
                "description": properties[name].pop("description"),
                "anyOf": [properties[name], one],
            }
    schema["properties"] = {"kind": {"const": kind}, **properties}
    schema["required"] = ["kind", *schema.get("required", [])]


def _one_of_kinds(references: dict[str, str]) -> dict[str, Any]:
    """A job: the schema that its `kind` names, so that mistakes are reported of that kind alone."""
    return {
        "type": "object",
        "anyOf": [
            {"required": ["kind"]},
            {"required": ["recipe"], "properties": {"recipe": {"enum": list(RECIPES)}}},
        ],
        "properties": {"kind": {"enum": list(references)}},
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": reference},
            }
            for kind, reference in references.items()
        ],
    }
