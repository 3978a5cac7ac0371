"""Says what a submission would do and cost."""

import json
from dataclasses import asdict

from slimctl.orchestrator.cli.options import (
    DEFAULT_TFLOPS,
    File,
    Json,
    Overrides,
    Storage,
    Tflops,
    load,
    mistakes_as_json,
    warn,
)
from slimctl.orchestrator.cli.output import echo


def plan(
    file: File,
    overrides: Overrides = None,
    storage: Storage = None,
    tflops: Tflops = None,
    as_json: Json = False,
) -> None:
    """Say what a submission would do and cost: per job reuse, resume or run, and why."""
    from slimctl.orchestrator.cli.tables import print_plan
    from slimctl.orchestrator.planning.estimate import plan_json
    from slimctl.orchestrator.planning.plan import plan as plan_pipeline
    from slimctl.orchestrator.running.cluster import devices_here

    here = devices_here()
    with mistakes_as_json(as_json):
        pipeline = load(file, overrides, storage, draft=not as_json)
        tflops = tflops or (DEFAULT_TFLOPS if here.gpus else None)
        found = plan_pipeline(pipeline, tflops=tflops)
    if as_json:
        data = plan_json(found.plan, found.cost) | {"warnings": found.warnings}
        echo(json.dumps(data, indent=1, default=asdict))
    else:
        print_plan(found.plan, found.cost, here)
    warn(found.warnings)
    pipeline.tell(found.missing)
