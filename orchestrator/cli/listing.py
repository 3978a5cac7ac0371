"""The verbs that say what there is: kinds, presets, schema."""

import inspect
import json

import typer

from orchestrator.cli.options import Json


def kinds(as_json: Json = False) -> None:
    """List the job kinds with their inputs and outputs."""
    from jobs.base.refs import ref_types
    from jobs.base.registry import kind_names, load_kind
    from jobs.base.spec import output_type

    found = []
    for name in kind_names():
        spec = load_kind(name)
        inputs = {
            field: [cls.__name__ for cls in types]
            for field, info in spec.model_fields.items()
            if (types := ref_types(info.annotation))
        }
        summary = (inspect.getdoc(spec) or "").splitlines()[0]
        optional = [field for field in inputs if not spec.model_fields[field].is_required()]
        found.append(
            {
                "name": name,
                "inputs": inputs,
                "optional": optional,
                "output": output_type(spec).__name__,
                "summary": summary,
            }
        )
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for item in found:
        typer.echo(f"{item['name']} -> {item['output']}")
        typer.echo(f"  {item['summary']}")
        for field, types in item["inputs"].items():  # type: ignore[attr-defined]
            maybe = " (optional)" if field in item["optional"] else ""
            typer.echo(f"  {field}: {' or '.join(types)}{maybe}")


def presets(as_json: Json = False) -> None:
    """List the published networks with their size and cost."""
    from models.networks.presets import PRESETS
    from orchestrator.cli.tables import print_table

    if as_json:
        found = [
            {"name": p.name, "family": p.family, "parameters": p.parameters, "macs": p.macs}
            for p in PRESETS.values()
        ]
        typer.echo(json.dumps(found, indent=1))
        return
    rows = [
        (preset.name, preset.family, f"{preset.parameters:,}", f"{preset.macs / 1e9:.3f}")
        for preset in PRESETS.values()
    ]
    print_table(("preset", "family", "parameters", "GMAC"), rows)


def schema() -> None:
    """Print the JSON schema of a pipeline file, for editors."""
    from orchestrator.schema import pipeline_schema

    typer.echo(json.dumps(pipeline_schema(), indent=1))
