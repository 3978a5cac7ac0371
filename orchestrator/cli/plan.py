"""Says what a submission would do and cost."""

import json
from dataclasses import asdict

from slimctl.orchestrator.cli.options import (
    DEFAULT_TFLOPS,
    ExpectGpus,
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
    expect_gpus: ExpectGpus = None,
    as_json: Json = False,
) -> None:
    """Say what a submission would do and cost: per job reuse, resume or run, and why."""
    from slimctl.orchestrator.cli.tables import print_plan
    from slimctl.orchestrator.planning.estimate import plan_json
    from slimctl.orchestrator.planning.fit import misfit_problems, misfits
    from slimctl.orchestrator.planning.memory import device_limit
    from slimctl.orchestrator.planning.plan import plan as plan_pipeline
    from slimctl.orchestrator.running.cluster import devices_here, gpu_bytes_here

    here = devices_here()
    with mistakes_as_json(as_json):
        pipeline = load(file, overrides, storage, draft=not as_json, expect_gpus=expect_gpus)
        expected = here.expecting(pipeline.resources)
        tflops = tflops or (DEFAULT_TFLOPS if expected.gpus else None)
        limit = device_limit(pipeline.resources, gpu_bytes_here())
        found = plan_pipeline(pipeline, tflops=tflops, cluster=expected, device_bytes=limit)
    warnings = [*found.warnings, *misfit_problems(pipeline, misfits(found.plan, expected))]
    if as_json:
        data = plan_json(found.plan, found.cost, found.memory) | {"warnings": warnings}
        echo(json.dumps(data, indent=1, default=asdict))
    else:
        print_plan(found, expected)
        if expected.gpus > here.gpus:
            echo(f"planned for {expected.gpus} GPUs, of which {here.gpus} are here")
    warn(warnings)
    pipeline.tell(found.missing)
