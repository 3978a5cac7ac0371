"""Lists or deletes what nothing refers to."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from slimctl.orchestrator.cli.options import Json, Storage, open_store
from slimctl.orchestrator.cli.output import echo

Delete = Annotated[bool, typer.Option("--delete", help="Delete it; without, it is only listed.")]


def gc(delete: Delete = False, storage: Storage = None, as_json: Json = False) -> None:
    """List what no run and no artifact refers to; with --delete, delete it."""
    from slimctl.orchestrator.upkeep.gc import delete_garbage, find_garbage

    store = open_store(storage)
    found = find_garbage(store)
    if delete:
        delete_garbage(store, found)
    if as_json:
        echo(json.dumps([asdict(garbage) for garbage in found], indent=1))
        return
    for garbage in found:
        echo(f"{garbage.name}: {garbage.bytes:,} bytes, {garbage.why}")
    total = f"{sum(garbage.bytes for garbage in found):,} bytes in {len(found)} places"
    hint = "deleted" if delete else "nothing is deleted without --delete" if found else "clean"
    typer.echo(f"{total}: {hint}", err=True)
