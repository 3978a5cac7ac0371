"""Prints the JSON schema of a pipeline file."""

import json

from slimctl.orchestrator.cli.output import echo


def schema() -> None:
    """Print the JSON schema of a pipeline file, for editors."""
    from slimctl.orchestrator.pipeline.schema import pipeline_schema

    echo(json.dumps(pipeline_schema(), indent=1))
