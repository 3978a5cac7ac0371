"""Ray Train around the training loop, or the loop in this process where one worker will do.

Ray Train places the workers and brings them back; checkpoints and the resume pointer are ours, so
an attempt that finds work in the folder continues from it whatever happened to Ray's own files.
Ray Train starts nothing again: an error of any worker ends the attempt on all of them, and what is
raised here is its cause, of the class that says whether there is another attempt.
"""

import contextlib
import os
import time
import traceback
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from slimctl.jobs.base.artifacts import Averages, EmbeddedPrompts, Flow, Generator
from slimctl.jobs.base.cluster import Needs
from slimctl.jobs.base.context import JobContext, Reporter
from slimctl.jobs.base.deaths import DeathWatch
from slimctl.jobs.base.errors import (
    BadDevice,
    CollectiveHung,
    JobFailed,
    OutOfMemory,
    SlimError,
    WorkLost,
)
from slimctl.jobs.base.failures import first_cause, named, recognised
from slimctl.jobs.base.keys import derive_seed
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import average_file, load_weights, save_weights
from slimctl.jobs.storage.texts import PromptTexts
from slimctl.jobs.training import hang_watch
from slimctl.jobs.training.checkpoint import load_checkpoint
from slimctl.jobs.training.engine import recorded_engine
from slimctl.jobs.training.evaluator import Scores, Watch, best_weights, read_scores
from slimctl.jobs.training.final_errors import noted_final_errors
from slimctl.jobs.training.hang_watch import HangWatch
from slimctl.jobs.training.leaving import Leaving, listening
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.micro_batches import noted_micro_batch
from slimctl.jobs.training.objective import Objective, Share
from slimctl.jobs.training.placement import free_placement, placement_mark
from slimctl.jobs.training.score_curve import noted_scores
from slimctl.jobs.training.spec import ModelT, TrainingSpec
from slimctl.models.conditions import tell
from slimctl.models.engine import Engine, choose_engine
from slimctl.models.metrics.cost import build_on_meta, count_parameters
from slimctl.models.networks.denoiser.spec import DenoiserSpec
from slimctl.models.networks.registry import parse_network
from slimctl.models.networks.slicing import Pieces, sliced_weights
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.networks.two_times.spec import TwoTimesSpec
from slimctl.models.sharding import mesh_of
from slimctl.models.spec import ImageShape

REPORT_EVERY_S = 0.5
SETTLE_S = 5
"""How long the exchanges of a group that has failed are given to end."""


@dataclass(frozen=True)
class TrainTask:
    """All that a worker needs, by pickle."""

    job: str
    artifact_id: str
    spec: TrainingSpec
    network: NetworkSpec
    image: ImageShape
    objective: Objective
    initial: Flow | Generator | None
    store: Store
    reporter: Reporter
    threads: int
    watch: Watch | None = None
    recompute: bool = False
    """Whether blocks are computed again on the way back."""
    shard: bool = False
    """Whether several workers split the networks."""
    prompts: EmbeddedPrompts | None = None
    """What numbers of prompts mean to the network; None = it takes no texts."""


@dataclass(frozen=True)
class Trained:
    """Result of a training."""

    weights: Mapping[str, Tensor]
    """EMA weights by parameter name, with the buffers: the best ones where they were scored, else
    the last."""
    parameters: int
    seconds: float
    """Training time over all attempts, s."""
    scores: Scores | None = None
    """None where the objective scores nothing."""


def train_on_ray(
    context: JobContext,
    spec: TrainingSpec,
    network: NetworkSpec,
    image: ImageShape,
    objective: Objective,
    initial: Flow | Generator | None = None,
    watch: Watch | None = None,
    prompts: EmbeddedPrompts | None = None,
) -> Trained:
    """Trains a network inside Ray Train (or here, if the spec says so); returns averaged weights.

    Raises:
        TrainingDiverged: the loss is no longer finite.
        UserError: the weights to start from do not fit.
        DamagedArtifact: an input is not what its manifest says.
        JobFailed: it failed in another way that would come again.
        Preempted: a process or node of it is taken away; there is a checkpoint of the moment.
        WorkLost: a worker died, or Ray Train; the next attempt continues from the last checkpoint.
    """
    workers, threads = spec.layout(context.cluster)
    here = spec.in_process(context.cluster)
    limit = _gpu_bytes() if here else _gpu_bytes_of_cluster(context)
    use_cuda = limit is not None
    task = TrainTask(
        context.job,
        context.artifact_id,
        spec,
        network,
        image,
        objective,
        initial,
        context.store,
        context.reporter,
        threads,
        watch,
        *_saves_memory(context, spec, limit),
        prompts,
    )
    with listening():
        if here:
            _train_here(task)
        else:
            _fit(task, spec.needs(context.cluster), use_cuda)
    checkpoint = load_checkpoint(context.work)
    if checkpoint is None or checkpoint.step < spec.steps:
        raise WorkLost(context.job, "the training ended without its final checkpoint")
    context.engine |= _what_trained(context, task, workers, threads, use_cuda)
    context.device_s = checkpoint.seconds * (workers if use_cuda else workers * threads)
    tensors = checkpoint.tensors
    last = {n.removeprefix("ema."): value for n, value in tensors.items() if n.startswith("ema.")}
    count = count_parameters(build_on_meta(network, image))
    weights = best_weights(tensors) or last
    return Trained(weights, count, checkpoint.seconds, read_scores(tensors))


def train_model(
    context: JobContext,
    spec: TrainingSpec,
    objective: Objective,
    model: ModelT,
    start: Flow | Generator | None = None,
) -> tuple[ModelT, Trained]:
    """Trains a network and writes its averaged weights into the job's result.

    Args:
        context: of the job.
        spec: its settings.
        objective: what to minimise; not yet prepared.
        model: the handle of the result, but for its weights.
        start: what to take the first weights from; None = random ones.

    Raises:
        as `train_on_ray`.
    """
    watch, network = spec.watch(context.handles, model), parse_network(model.network)
    trained = train_on_ray(
        context, spec, network, model.image, objective, start, watch, model.prompts
    )
    save_weights(trained.weights, context.folder / "weights.safetensors")
    made = {"parameters": trained.parameters, "averages": _averages(context, spec)}
    return model.model_copy(update=made), trained


def _averages(context: JobContext, spec: TrainingSpec) -> Averages | None:
    """Copies the snapshots of averages into the result; None where there are none."""
    if spec.ema_profiles is None:
        return None
    every, last = spec.snapshot_every, spec.steps
    steps = tuple(n for n in range(1, last + 1) if n % every == 0 or n == last)
    for step in steps:
        name = average_file(step)
        (context.folder / name).write_bytes(context.work.read(name))
    return Averages(lengths=spec.ema_profiles, steps=steps)


def _what_trained(
    context: JobContext, task: TrainTask, workers: int, threads: int, use_cuda: bool
) -> dict[str, Any]:
    """The device, the engine and the workers, and the scores taken, for the manifest."""
    scores = {str(step): value for step, value in noted_scores(context.work).items()}
    return {
        **({"scores": scores} if scores else {}),
        "device": "cuda" if use_cuda else "cpu",
        **recorded_engine(context.work).model_dump(exclude_none=True),
        **noted_micro_batch(context.work),
        **noted_final_errors(context.work),
        **({"checkpoint_activations": True} if task.recompute else {}),
        **({"shard": "full"} if task.shard else {}),
        "workers": _elastic(task.spec, workers),
        "threads": threads,
        "torch": torch.__version__,
    }


def _train_here(task: TrainTask) -> None:
    """The whole training in this process; its errors name the job."""
    try:
        train_worker(task)
    except SlimError as error:
        raise named(error, f"job '{task.job}'") from error


def _fit(task: TrainTask, needs: Needs, use_cuda: bool) -> None:
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "20")
    os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", str(SETTLE_S))
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # noqa: PLC0415
    from ray.train.torch import TorchTrainer  # noqa: PLC0415

    from slimctl.jobs.training.torch_workers import ListeningConfig  # noqa: PLC0415

    free_placement(task.artifact_id)
    hang_watch.forget(task.store.work(task.artifact_id))
    held = {"CPU": needs.part.cpus, "GPU": needs.part.gpus}
    resources = {name: size for name, size in held.items() if size}
    resources["memory"] = placement_mark(task.artifact_id)
    folder = task.store.work(task.artifact_id)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"task": task},
        torch_config=ListeningConfig(backend="nccl" if use_cuda else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=_elastic(task.spec, needs.parts),
            use_gpu=needs.gpus > 0,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=f"attempt-{uuid.uuid4().hex[:12]}",  # Ray's own snapshot is never resumed from
            storage_path=f"{folder.uri}/ray_train",
            failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
        ),
    )
    deaths = DeathWatch()
    try:
        with Leaving(folder, None).watching():
            trainer.fit()
    except Exception as error:
        raise _cause(task, error, deaths) from error
    finally:
        folder.delete("ray_train")


def _elastic(spec: TrainingSpec, workers: int) -> int | tuple[int, int]:
    """The number of workers, or the smallest and the largest: Ray Train follows the cluster.

    A change of the number starts the workers again from the last checkpoint.
    """
    counts = spec.worker_counts()
    return (counts[0], counts[-1]) if len(counts) > 1 else workers


def _cause(task: TrainTask, error: Exception, deaths: DeathWatch) -> SlimError:
    """What ended Ray Train: what a worker said before it ended, else why one died."""
    said = getattr(error, "worker_failures", {}).values()
    where, cause = f"job '{task.job}'", first_cause(said)
    if cause is None or type(cause) is WorkLost:  # it may be of another's end
        hung = hang_watch.hung_at(task.store.work(task.artifact_id))
        if hung:
            fix = f"look at the stacks in its log; a longer hang_s than {task.spec.hang_s:g}"
            return CollectiveHung(where, hung, fix)
    what, fix, failure = deaths.explain(error, "Ray Train failed")
    is_better = failure is OutOfMemory and type(cause) is WorkLost  # of those who waited for it
    return failure(where, what, fix) if cause is None or is_better else cause


def _gpu_bytes() -> int | None:
    """Memory of the GPU that this process has; None without one."""
    return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None


def _gpu_bytes_of_cluster(context: JobContext) -> int | None:
    """Memory of a GPU; None where declared ones are not real: a cluster may declare any."""
    if context.cluster.gpus == 0:
        return None
    import ray  # noqa: PLC0415

    probe = ray.remote(_gpu_bytes).options(num_gpus=1, num_cpus=0)
    size: int | None = ray.get(probe.remote())
    return size


def _saves_memory(context: JobContext, spec: TrainingSpec, limit: int | None) -> tuple[bool, bool]:
    """Whether blocks are computed again on the way back, and whether workers split the networks.

    As asked, or where memory is short.
    """
    again, splits = spec.checkpoint_activations is True, spec.shard == "full"
    settled = spec.checkpoint_activations != "auto" and spec.shard != "auto"
    if limit is not None and not settled:
        named = {name: value for name, value in spec if isinstance(value, Ref)}
        facts = {name: context.input(ref).facts() for name, ref in named.items()}
        memory = spec.memory(facts, context.cluster, limit)
        if memory is not None:
            again, splits = memory.recomputes, memory.sharded
    most = max(spec.worker_counts(), default=spec.layout(context.cluster)[0])
    return again, splits and most > 1


def _work(config: Mapping[str, Any]) -> None:
    """Runs on each Train worker."""
    from ray import train  # noqa: PLC0415

    task: TrainTask = config["task"]
    rank = train.get_context().get_world_rank()
    world = train.get_context().get_world_size()
    try:
        train_worker(task, rank, world)
    except Exception as error:
        failure = named(error, f"job '{task.job}'")
        if type(failure) is JobFailed and not isinstance(error, SlimError):  # ours to repair
            task.reporter.send(task.job, "log", message=traceback.format_exc())
        raise failure from error


def train_worker(task: TrainTask, rank: int = 0, world: int = 1) -> None:
    """One worker's whole part; also the way to train without Ray, in this process."""
    torch.set_num_threads(task.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = task.spec.batch_size // world
    mesh = mesh_of(world, device) if task.shard and world > 1 else None
    share = Share(rank * count, count, task.spec.batch_size, device, mesh)
    network = initial_network(task)
    folder = task.store.work(task.artifact_id)
    say = partial(_say, task)
    leaving, watch = Leaving(folder, rank), HangWatch(task.spec.hang_s, folder, say, rank, world)
    trainer = Trainer(
        task.spec,
        network,
        task.objective,
        share,
        folder,
        _Throttled(task) if rank == 0 else _silent,
        rank,
        world,
        choose_engine(device, "training", task.spec.precision, in_parts=mesh is not None),
        task.watch,
        say,
        settle=True,
        recompute=task.recompute,
        alive=watch.alive,
        leaving=leaving.why,
    )
    try:
        with contextlib.ExitStack() as around:
            around.enter_context(leaving.watching())
            if world > 1:
                around.enter_context(watch.watching())
            around.enter_context(Engine().products())  # of whatever is no network, such as scores
            trainer.run()
    except RuntimeError as error:
        known = recognised(error, "")
        if not isinstance(known, BadDevice):
            raise
        # Where it was belongs to its words: what comes again at the same step is the work's fault.
        what = f"{known.what}, after step {trainer.step}"
        raise BadDevice(known.where, what, *known.args[2:]) from error


def initial_network(task: TrainTask) -> nn.Module:
    """The network with its first weights: those of `initial`, else random ones from the seed.

    A network of two times begins as the flow of one time that it starts from, a denoiser as that
    flow itself, a slim one as a part of its teacher.
    """
    torch.manual_seed(derive_seed(task.spec.seed or 0, "weights"))
    network = task.network.build(task.image)
    if task.initial is not None:
        _take_weights(network, task, task.initial)
    if task.prompts is not None:
        tell(network, PromptTexts(task.store, task.prompts))
    return network


def _take_weights(network: nn.Module, task: TrainTask, initial: Flow | Generator) -> None:
    """Fills a network, or the one that it is around, with the weights of another, or a part."""
    known, asked, inner = parse_network(initial.network), task.network, network
    if known != asked and isinstance(asked, (TwoTimesSpec, DenoiserSpec)):
        asked, inner = asked.network, network.network  # type: ignore[assignment]
    if known == asked or not known.units:
        load_weights(inner, task.store, initial)
        return
    weights = load_file(task.store.file(initial, initial.file))
    pieces = Pieces(tuple(zip(known.units, asked.units, strict=True)))
    teacher = build_on_meta(known, task.image)
    inner.load_state_dict(sliced_weights(inner, teacher, weights, pieces))


def _say(task: TrainTask, line: str) -> None:
    task.reporter.send(task.job, "log", message=line)


def _silent(step: int, metrics: Mapping[str, float]) -> None:
    """Progress of a worker that is not the first."""


class _Throttled:
    """Sends progress at most twice a second, and always the last point."""

    def __init__(self, task: TrainTask) -> None:
        self._task = task
        self._last_s = 0.0

    def __call__(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        total = self._task.spec.steps
        if now - self._last_s < REPORT_EVERY_S and step < total:
            return
        self._last_s = now
        self._task.reporter.send(
            self._task.job, "progress", done=step, total=total, metrics=dict(metrics)
        )
