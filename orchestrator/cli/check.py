"""Checks a pipeline file."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from slimctl.orchestrator.cli.options import (
    File,
    Json,
    Overrides,
    Storage,
    load,
    mistakes_as_json,
    warn,
)
from slimctl.orchestrator.cli.output import echo

if TYPE_CHECKING:
    from slimctl.orchestrator.pipeline.pipeline import Pipeline


def check(
    file: File, overrides: Overrides = None, storage: Storage = None, as_json: Json = False
) -> None:
    """Check a pipeline file; every mistake at once, nothing is started."""
    from slimctl.orchestrator.planning.plan import check as check_pipeline

    with mistakes_as_json(as_json):
        pipeline = load(file, overrides, storage, reads=True)
        warnings = check_pipeline(pipeline)
    warn(warnings)
    if as_json:
        jobs = [name for name in pipeline.specs if pipeline.made.owner(name) == name]
        found = {"name": pipeline.name, "jobs": jobs, "warnings": warnings}
        echo(json.dumps(found, default=asdict))
    else:
        warned = f", {len(warnings)} warning{'s'[len(warnings) == 1 :]}" if warnings else ""
        echo(f"{file}: {_size(pipeline)}, no mistakes{warned}")


def _size(pipeline: "Pipeline") -> str:
    """`25 jobs, 18 of them in the group students (6 iterations of 3)`."""
    made = pipeline.made
    groups = [
        f"{name} ({len(made.iterations[name])} iterations of {len(group.jobs)})"
        for name, group in made.groups.items()
        if name not in made.searches
    ]
    jobs = [name for name in pipeline.specs if made.owner(name) == name]
    members = sum(name in made.origins for name in jobs)
    inside = f", {members} of them in groups: {', '.join(groups)}" if groups else ""
    return f"{len(jobs)} job{'s'[len(jobs) == 1 :]}{inside}"
