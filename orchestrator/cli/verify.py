"""Reads a storage again, and looks for damage."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from slimctl.orchestrator.cli.options import LIMIT, Json, Storage, open_store
from slimctl.orchestrator.cli.output import echo

Artifact = Annotated[
    str | None,
    typer.Argument(help="Beginning of an artifact id; else everything.", show_default=False),
]
Pairs = Annotated[
    int,
    typer.Option("--pairs", min=0, max=LIMIT, help="Random pairs of each pair set to make again."),
]
Repair = Annotated[
    bool,
    typer.Option("--repair", help="Remove what is damaged: the next submission makes it again."),
]
OldRepair = Annotated[bool, typer.Option("--mend", hidden=True, help="Old name of --repair.")]


def verify(
    artifact: Artifact = None,
    pairs: Pairs = 4,
    repair: Repair = False,
    old_repair: OldRepair = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Read every byte of the store again, and make some pairs again."""
    from slimctl.jobs.base.errors import DamagedArtifact, UserError
    from slimctl.orchestrator.upkeep.verify import repair as remove_damage
    from slimctl.orchestrator.upkeep.verify import verify_all, verify_artifact

    if old_repair:
        typer.echo("--mend is now called --repair; the next version takes --repair only", err=True)
    store = open_store(storage)
    if artifact is None:
        looked = verify_all(store, pairs)
    else:
        known = store.find(artifact)
        if not known:
            raise UserError(store.uri, f"there is no artifact '{artifact}'", "slimctl verify")
        looked = (verify_artifact(store, name, pairs) for name in known)
    found = []
    for finding in looked:
        found.append(finding)
        if repair or old_repair:
            remove_damage(store, finding)
        if not as_json:
            made_again = ", made again" if finding.rechecked else finding.note and ", "
            state = "DAMAGED" if finding.problems else f"ok{made_again}{finding.note}"
            echo(f"{finding.name}: {state}")
    if as_json:
        echo(json.dumps([asdict(finding) for finding in found], indent=1))
    damaged = [problem for finding in found for problem in finding.problems]
    if damaged:
        raise DamagedArtifact(
            store.uri,
            "\n".join([f"{len(damaged)} problem(s)", *(f"  {problem}" for problem in damaged)]),
            "submit the pipeline again: what was damaged is made again"
            if repair or old_repair
            else "slimctl verify --repair, then submit the pipeline again",
        )
