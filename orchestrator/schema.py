"""The JSON schema of a pipeline file, with which editors complete and check it while one types."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema

from jobs.base.registry import kind_names, load_kind
from jobs.base.spec import JobSpec
from orchestrator.graph import ref_fields
from orchestrator.messages import NAME_PATTERN
from orchestrator.pipeline import Pipeline

DEFINITIONS = "#/$defs/{model}"


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
    schema = _frame()
    schema["$defs"] = definitions
    schema["properties"]["jobs"] |= {
        "minProperties": 1,
        "propertyNames": {"pattern": NAME_PATTERN},
        "additionalProperties": _one_of_kinds(references),
    }
    return schema


def _frame() -> dict[str, Any]:
    """The schema without its jobs."""
    frame = Pipeline.model_json_schema(ref_template=DEFINITIONS)
    frame.pop("$defs", None)
    description = frame["properties"]["jobs"].get("description", "")
    frame["properties"]["jobs"] = {"type": "object", "description": description}
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        **frame,
        "title": "slimctl pipeline",
        "description": "Named jobs that take each other's results.",
    }


def _complete(schema: dict[str, Any], kind: str, cls: type[JobSpec]) -> None:
    """Adds `kind` to the schema of a kind, and what its references refer to."""
    properties = schema["properties"]
    for name, types in ref_fields(cls).items():
        made = " or ".join(one.__name__ for one in types)
        about = properties[name].get("description", "")
        properties[name]["description"] = f"{about} Name of a job that makes: {made}.".strip()
    schema["properties"] = {"kind": {"const": kind}, **properties}
    schema["required"] = ["kind", *schema.get("required", [])]


def _one_of_kinds(references: dict[str, str]) -> dict[str, Any]:
    """A job: the schema that its `kind` names, so that mistakes are told of that kind alone."""
    return {
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": {"enum": list(references)}},
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": reference},
            }
            for kind, reference in references.items()
        ],
    }
