"""Lists the kinds of jobs, or the fields of one."""

import inspect
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slimctl.orchestrator.cli.options import Json
from slimctl.orchestrator.cli.output import echo

if TYPE_CHECKING:
    from slimctl.jobs.base.spec import JobSpec


def kinds(
    names: Annotated[
        list[str] | None, typer.Argument(help="Kinds to list the fields of; none = list the kinds.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the job kinds with their inputs and outputs, or every field of some."""
    from slimctl.jobs.base.registry import kind_names, load_kind

    wanted = {name: load_kind(name) for name in names or kind_names()}
    found = [_about(name, spec) for name, spec in wanted.items()]
    if as_json:
        fields = [spec.model_json_schema() if names else None for spec in wanted.values()]
        found = [
            item | ({"fields": each} if each else {})
            for item, each in zip(found, fields, strict=True)
        ]
        echo(json.dumps(found, indent=1))
        return
    for item in found:
        echo(f"{item['name']} -> {item['output']}")
        if names:
            _tell_fields(wanted[item["name"]])
            continue
        echo(f"  {item['summary']}")
        for field, types in item["inputs"].items():
            maybe = " (optional)" if field in item["optional"] else ""
            echo(f"  {field}: {' or '.join(types)}{maybe}")


def _about(name: str, spec: "type[JobSpec]") -> dict[str, Any]:
    """A kind as plain data, without its fields."""
    from slimctl.jobs.base.refs import ref_types
    from slimctl.jobs.base.spec import output_type

    inputs = {
        field: [cls.__name__ for cls in types]
        for field, info in spec.model_fields.items()
        if (types := ref_types(info.annotation))
    }
    return {
        "name": name,
        "inputs": inputs,
        "optional": [field for field in inputs if not spec.model_fields[field].is_required()],
        "output": output_type(spec).__name__,
        "summary": (inspect.getdoc(spec) or "").splitlines()[0],
    }


def _tell_fields(spec: "type[JobSpec]") -> None:
    from slimctl.orchestrator.cli.kind_fields import field_lines

    echo(f"{inspect.getdoc(spec)}\n")
    for line in field_lines(spec):
        echo(line)
