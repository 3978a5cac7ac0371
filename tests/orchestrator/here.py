"""A pipeline run in this process, without Ray: real artifacts, a real record of the run."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import SilentReporter
from slimctl.jobs.execution import JobRequest, execute
from slimctl.jobs.pairs import generate as generate_module
from slimctl.jobs.pairs.shards import find_shard, open_solve, shard_name, solve_shard, write_shard
from slimctl.jobs.storage.flows import open_guided
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training import ray_train
from slimctl.orchestrator.pipeline.pipeline import parse_pipeline, resolve, to_yaml
from slimctl.orchestrator.planning.graph import Graph
from slimctl.orchestrator.planning.plan import as_event, make_plan
from slimctl.orchestrator.runs.events import EventLog
from slimctl.orchestrator.runs.runs import new_run_id, save_pipeline

SMALL = """
name: small
seed: 3
jobs:
  data: {kind: load_dataset, source: digits, max_images: 120}
  teacher: {kind: analytic_flow, data: data, bandwidth: 0.05}
  pairs:
    {kind: generate_pairs, flow: teacher, count: 24, shard_size: 8,
     solver: {kind: euler, steps: 4}}
  student:
    kind: anneal_reflow
    pairs: pairs
    network: {kind: song_unet, channels: 4, channel_multipliers: [1], blocks: 1}
    steps: 4
    batch_size: 8
    workers: 1
"""


@contextmanager
def no_ray():
    """Pools and trainings that work in this process."""

    def fit(task, workers, *_):
        ray_train.train_worker(replace(task, threads=1))

    def pool(context, recipe, count, actors):
        records = []
        for shard in range(-(-count // recipe.shard_size)):
            found = find_shard(context.store, recipe, shard)
            if found is None:
                cpu = torch.device("cpu")
                flow = open_guided(context.store, recipe.flow, recipe.guidance, cpu)
                run = open_solve(context.store, recipe, flow)
                solved = solve_shard(flow, recipe, shard, cpu, run)
                found = write_shard(context.store, shard_name(recipe, shard), solved)
            records.append(found)
        return records

    with patch.object(ray_train, "_fit", fit), patch.object(generate_module, "generate", pool):
        yield


def run_here(storage: str | Path, text: str = SMALL) -> dict[str, str]:
    """Runs a pipeline and records it; returns how each job ended, "" if well."""
    pipeline = resolve(parse_pipeline(text, "small.yaml", storage=str(storage)).pipeline)
    store = Store(pipeline.storage)
    plan = make_plan(pipeline, Graph.of(pipeline), store)
    run = new_run_id(plan.name)
    save_pipeline(store.blobs, run, to_yaml(pipeline))
    log = EventLog(store.blobs, run)
    log.add("run_started", **as_event(plan))
    ended: dict[str, str] = {}
    with no_ray():
        for job in plan.jobs:
            if any(ended.get(name) for name in job.inputs):
                log.add("job_blocked", job.name)
                ended[job.name] = "blocked"
                continue
            request = JobRequest(
                job.name, job.kind, job.fields, job.artifact, job.inputs, plan.storage,
                Cluster(cpus=1), SilentReporter(), job.fingerprint, run,
            )  # fmt: skip
            outcome = execute(request)
            ended[job.name] = outcome.failure or ""
            name = "job_failed" if outcome.failure else "job_done"
            log.add(name, job.name, failure=outcome.failure or "", what=outcome.what)
    log.add("run_ended", state="failed" if any(ended.values()) else "done")
    log.flush()
    return ended
