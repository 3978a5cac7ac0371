"""The verb that writes a pipeline to start from."""

import json
from pathlib import Path
from typing import Annotated

import typer

from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator.cli.options import Json
from slimctl.orchestrator.cli.output import echo


def init(
    name: Annotated[
        str | None,
        typer.Argument(help="Pipeline to start from; else they are listed.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write; else NAME.yaml here."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file.")] = False,
    as_json: Json = False,
) -> None:
    """Write a pipeline file to start from, with comments where to edit it."""
    from slimctl.orchestrator.cli.tables import print_table
    from slimctl.orchestrator.pipeline.starts import start_named, starts

    if name is None:
        found = starts().values()
        if as_json:
            listed = [{"name": one.name, "file": one.file, "about": one.about} for one in found]
            echo(json.dumps(listed, indent=1))
        else:
            print_table(("start", "what it is"), [(one.name, one.about) for one in found])
        return
    start = start_named(name)
    target = output or Path(f"{start.name}.yaml")
    if target.exists() and not force:
        fix = "name another with -o, or write over it with --force"
        raise UserError(str(target), "is there already", fix)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(start.written_as(str(target)), encoding="utf-8")
    echo(json.dumps({"name": start.name, "path": str(target)}) if as_json else str(target))
    typer.echo(
        f"  edit: the lines marked EDIT\n  look: slimctl plan {target}\n"
        f"  run:  slimctl submit {target}",
        err=True,
    )
