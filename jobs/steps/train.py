"""Training a step policy: every training seed is a piece of work of its own, side by side on Ray.

A training seed that dies is handed out again and goes on from its own checkpoint, bit for bit as if
nothing had happened; the others do not notice.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.base.cluster import Needs
from slimctl.jobs.base.context import JobContext, Reporter
from slimctl.jobs.base.errors import TrainingDiverged
from slimctl.jobs.base.guidance import Guidance
from slimctl.jobs.base.keys import derive_seed
from slimctl.jobs.base.turns import computing
from slimctl.jobs.pairs.pool import Life, Pool
from slimctl.jobs.steps.episodes import lessons
from slimctl.jobs.storage.blobs import Blobs
from slimctl.jobs.storage.store import Store
from slimctl.models.steps.double_dqn import DoubleDqn, LearnerState
from slimctl.models.steps.spec import FlowProblem

if TYPE_CHECKING:
    from slimctl.jobs.kinds.train_step_policy import TrainStepPolicy

POINTER = "state.json"


def save_state(folder: Blobs, state: LearnerState, seconds: float) -> None:
    """Writes the tensors, then the JSON, then removes the tensors before."""
    data = save({name: value.contiguous() for name, value in state.tensors.items()})
    checksum = hashlib.sha256(data).hexdigest()
    name = f"state-{checksum[:16]}.safetensors"
    folder.write(name, data)
    pointer = {"file": name, "sha256": checksum, "seconds": seconds, "notes": dict(state.notes)}
    folder.write(POINTER, json.dumps(pointer).encode())
    for stale in folder.names():
        if stale.startswith("state-") and stale != name:
            folder.delete(stale)


def load_state(folder: Blobs) -> tuple[LearnerState, float] | None:
    """The state and its training time, s; None if there is none that can be read whole."""
    try:
        pointer: dict[str, Any] = json.loads(folder.read(POINTER))
        data = folder.read(str(pointer["file"]))
        if hashlib.sha256(data).hexdigest() != pointer["sha256"]:
            return None
        return LearnerState(load(data), pointer["notes"]), float(pointer["seconds"])
    except (FileNotFoundError, ValueError, KeyError):
        return None


REPORT_EVERY_S = 1.0


@dataclass(frozen=True)
class PolicyTask:
    """All that a worker needs, by pickle."""

    job: str
    artifact_id: str
    spec: "TrainStepPolicy"
    flow: Flow | None
    guidance: Guidance | None
    store: Store
    reporter: Reporter


@dataclass(frozen=True)
class TrainedPolicy:
    """Result of one training seed."""

    number: int
    seed: int
    """From which everything random of it is derived."""
    weights: Mapping[str, Tensor]
    validation: float
    """Highest mean return on the validation episodes."""
    best_at: int
    """Decisions after which it was reached."""
    curve: tuple[tuple[int, float, float], ...]
    """(decisions, mean return in training, mean return on validation)."""
    observation_size: int
    seconds: float
    """Training time over all attempts, s."""


class PolicyActor:
    """Trains whole training seeds."""

    def __init__(self, task: PolicyTask) -> None:
        torch.set_num_threads(1)
        self._task = task

    def ready(self) -> Life:
        """Answers once the process is up."""
        return Life.here()

    def make(self, number: int) -> TrainedPolicy:
        """Trains one seed, from its last checkpoint if there is one."""
        return train_seed(self._task, number)


def train_policies(context: JobContext, task: PolicyTask, needs: Needs) -> list[TrainedPolicy]:
    """Trains all seeds of a job, on as many Ray actors as `needs` has parts.

    Raises:
        TrainingDiverged: a loss is no longer finite.
        JobFailed: a training seed kills its actor whenever it runs alone.
    """
    import ray  # noqa: PLC0415

    options: dict[str, Any] = {"num_gpus": needs.part.gpus, "num_cpus": needs.part.cpus}
    cls = ray.remote(PolicyActor).options(max_restarts=-1, max_task_retries=0, **options)
    handles = [cls.remote(task) for _ in range(needs.parts)]
    found: dict[int, TrainedPolicy] = {}
    try:
        pool = Pool[int](handles, context.job)
        pool.run(range(task.spec.training_seeds), found.__setitem__)
    finally:
        for handle in handles:
            ray.kill(handle)
    context.engine |= {"actors": needs.parts, "torch": torch.__version__}
    return [found[number] for number in sorted(found)]


def train_seed(task: PolicyTask, number: int) -> TrainedPolicy:
    """Trains one seed in this process."""
    spec = task.spec
    seed = derive_seed(spec.seed or 0, "step policy", number) % 2**32
    if isinstance(spec.problem, FlowProblem):
        text = f"training seed {number} solves {spec.problem.pool} noises exactly, then learns"
        task.reporter.send(task.job, "log", message=text)
    environments = spec.learner.environments
    given = lessons(task.store, spec.problem, task.flow, environments, number, seed, task.guidance)
    learner = DoubleDqn(spec.learner, given.environment, seed, given.evaluator)
    folder = task.store.work(task.artifact_id).below(f"seed-{number}")
    restored = load_state(folder)
    earlier_s = 0.0
    if restored is not None:
        learner.restore(restored[0])
        earlier_s = restored[1]
    seconds = _learn(task, learner, number, earlier_s)
    counters = learner.counters
    save_state(folder, learner.state(), seconds)
    return TrainedPolicy(
        number=number,
        seed=seed,
        weights=learner.best_weights(),
        validation=counters.best_return or 0.0,
        best_at=counters.best_at,
        curve=tuple(counters.curve),
        observation_size=given.environment.observation_size,
        seconds=seconds,
    )


def _learn(task: PolicyTask, learner: DoubleDqn, number: int, earlier_s: float) -> float:
    """Runs the learner to its end, with checkpoints and progress; returns the time, s."""
    folder = task.store.work(task.artifact_id).below(f"seed-{number}")
    started = saved = reported = time.monotonic()
    while not learner.done:
        with computing():
            loss = learner.round()
        now = time.monotonic()
        if loss is not None and not loss < float("inf"):
            raise TrainingDiverged(
                f"job '{task.job}'",
                f"the loss of training seed {number} is {loss} after "
                f"{learner.counters.decisions} decisions",
                "lower learner.learning_rate",
            )
        if now - saved > task.spec.checkpoint_s:
            save_state(folder, learner.state(), earlier_s + now - started)
            saved = now
        if now - reported > REPORT_EVERY_S or learner.done:
            _report(task, learner, number, loss)
            reported = now
    return earlier_s + time.monotonic() - started


def _report(task: PolicyTask, learner: DoubleDqn, number: int, loss: float | None) -> None:
    counters, metrics = learner.counters, {}
    if loss is not None:
        metrics[f"loss_{number}"] = loss
    if counters.recent:
        metrics[f"return_{number}"] = sum(counters.recent) / len(counters.recent)
    if counters.curve:
        metrics[f"validation_{number}"] = counters.curve[-1][2]
    done, total = min(counters.decisions, learner.spec.decisions), learner.spec.decisions
    task.reporter.send(task.job, "progress", done=done, total=total, metrics=metrics)
