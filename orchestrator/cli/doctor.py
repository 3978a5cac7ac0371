"""Says what is wrong or missing here and on a cluster."""

import json
import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from slimctl.orchestrator.cli.options import DEFAULT_STORAGE, Address, Json, Storage
from slimctl.orchestrator.cli.output import echo

Tracking = Annotated[
    str | None, typer.Option("--tracking", help="MLflow URI to look at.", show_default=False)
]
MARKS = {"ok": "ok", "warn": "warn", "bad": "FAIL"}


def doctor(
    storage: Storage = None,
    address: Address = None,
    tracking: Tracking = None,
    as_json: Json = False,
) -> None:
    """Say what is wrong or missing here and on a cluster, and how to fix it."""
    from slimctl.orchestrator.upkeep.doctor import diagnose

    place = storage or os.environ.get("SLIMCTL_STORAGE") or DEFAULT_STORAGE
    checks = []
    for check in diagnose(place, tracking, address):
        checks.append(check)
        if not as_json:
            echo(f"{MARKS[check.state].ljust(5)}  {check.name}: {check.what}")
            if check.fix:
                echo(f"       fix: {check.fix}")
    if as_json:
        echo(json.dumps([asdict(check) for check in checks], indent=1))
    if any(check.state == "bad" for check in checks):
        sys.exit(2)
