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
    from orchestrator.cli.tables import print_table

    found = []
    for name in kind_names():
        spec = load_kind(name)
        inputs = {
            field: [cls.__name__ for cls in types]
            for field, info in spec.model_fields.items()
            if (types := ref_types(info.annotation))
        }
        summary = (inspect.getdoc(spec) or "").splitlines()[0]
        found.append(
            {
                "name": name,
                "inputs": inputs,
                "output": output_type(spec).__name__,
                "summary": summary,
            }
        )
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    rows = [
        (
            str(item["name"]),
            ", ".join(f"{field}: {' | '.join(types)}" for field, types in item["inputs"].items()),  # type: ignore[attr-defined]
            str(item["output"]),
            str(item["summary"]),
        )
        for item in found
    ]
    print_table(("kind", "inputs", "output", "what it does"), rows)


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
