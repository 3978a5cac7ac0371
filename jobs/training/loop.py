"""The training loop.

Every random number is a function of the step, so the loop's only state is the network, its average,
Adam's moments and the step; with an objective that asks for them also a score network and a critic
with their moments, and the best average so far. It does not wait for the device between two points
of the loss curve, but to score the student.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from slimctl.jobs.base.errors import Preempted, TrainingDiverged
from slimctl.jobs.base.keys import derive_seed
from slimctl.jobs.base.turns import computing
from slimctl.jobs.storage.blobs import Blobs
from slimctl.jobs.storage.tensors import average_file, safetensors_pieces
from slimctl.jobs.training.agreement import Agreement
from slimctl.jobs.training.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    checkpoint_name,
    load_checkpoint,
)
from slimctl.jobs.training.engine import settle_engine
from slimctl.jobs.training.evaluator import ScoredAverage, Watch
from slimctl.jobs.training.final_errors import note_final_errors
from slimctl.jobs.training.micro_batches import MicroBatches
from slimctl.jobs.training.objective import Objective, Part, ScoreNetwork, Share
from slimctl.jobs.training.score_curve import note_score
from slimctl.jobs.training.spec import TrainingSpec
from slimctl.jobs.training.together import together
from slimctl.models.ema import PowerEMA, profile_exponent
from slimctl.models.engine import Engine, adam, set_compiled
from slimctl.models.recompute import recompute_blocks
from slimctl.models.sharding import (
    clip_gradient,
    load_state,
    part_like,
    shard,
    total_norm,
    whole,
)


def make_adam(
    spec: TrainingSpec,
    parameters: Iterable[nn.Parameter],
    device: torch.device,
    betas: tuple[float, float] | None = None,
    epsilon: float | None = None,
) -> torch.optim.Adam:
    """The optimizer of a spec, or with settings of its own; the loop sets its learning rate."""
    betas, epsilon = betas or spec.adam_betas, epsilon or spec.adam_epsilon
    return adam(parameters, device, spec.learning_rate, betas, epsilon)


def moments_of(optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """`<number of the parameter>.<moment>` -> tensor."""
    return {
        f"{index}.{name}": value
        for index, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def load_moments(optimizer: torch.optim.Adam, named: Mapping[str, Tensor]) -> None:
    """Continues from what `moments_of` named."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in named.items():
        index, _, moment = name.partition(".")
        weight = weights[int(index)]
        if value.shape == weight.shape:  # in the weight's memory format: fused Adam needs it
            value = torch.empty_like(weight, requires_grad=False).copy_(part_like(value, weight))
        moments.setdefault(int(index), {})[moment] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


CompanionLoss = Callable[[nn.Module, nn.Module, int, int, Part], Tensor]
"""What a companion minimises: (itself, student, step, update, part)."""


class CompanionTrainer:
    """A score network or a critic with its own Adam.

    Args:
        spec: of the training.
        score_network: the network, and how it is trained.
        loss: what it minimises.
        prefix: of its tensors in a checkpoint.
        device: where it is.
        world: number of workers.
        micro_batches: compute its gradients.
    """

    def __init__(
        self,
        spec: TrainingSpec,
        score_network: ScoreNetwork,
        loss: CompanionLoss,
        prefix: str,
        share: Share,
        world: int,
        micro_batches: MicroBatches,
    ) -> None:
        device, mesh = share.device, None if score_network.whole else share.mesh
        self._spec = spec
        self._micro_batches = micro_batches
        self._score_network = score_network
        self._loss = loss
        self._prefix = prefix
        self._network = score_network.network
        if mesh is not None:
            shard(self._network, mesh)
        betas, epsilon = score_network.adam_betas, score_network.adam_epsilon
        self._optimizer = make_adam(spec, self._network.parameters(), device, betas, epsilon)
        self._model = self._network
        if world > 1 and mesh is None:
            devices = [device] if device.type == "cuda" else None
            self._model = nn.parallel.DistributedDataParallel(
                self._network, device_ids=devices, gradient_as_bucket_view=True
            )

    def advance(self, network: nn.Module, step: int, rate: float) -> None:
        """Its updates before a step of the student, at a share of the student's learning rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate * self._score_network.rate
        for update in range(self._score_network.updates):

            def loss_of(model: nn.Module, part: Part, update: int = update) -> Tensor:
                return self._loss(model, network, step, update, part)

            self._micro_batches.gradient(self._model, self._optimizer, loss_of, step)
            if self._spec.gradient_clip is not None:
                clip_gradient(self._network.parameters(), self._spec.gradient_clip)
            self._optimizer.step()

    def rehearse(self, network: nn.Module, step: int) -> None:
        """Finds micro-batches of its updates that fit on all of several workers."""

        def loss_of(model: nn.Module, part: Part) -> Tensor:
            return self._loss(model, network, step, 0, part)

        self._micro_batches.rehearse(self._model, self._optimizer, loss_of, step)

    def state(self) -> dict[str, Tensor]:
        """Weights and moments by name, for a checkpoint."""
        weights = self._network.state_dict()
        state = {f"{self._prefix}model.{name}": value for name, value in weights.items()}
        moments = moments_of(self._optimizer)
        return state | {f"{self._prefix}adam.{name}": value for name, value in moments.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continues from what `state` named; a checkpoint's other tensors are left alone."""
        load_part = dict[str, dict[str, Tensor]](model={}, adam={})
        for name, value in state.items():
            if name.startswith(self._prefix):
                part, _, rest = name.removeprefix(self._prefix).partition(".")
                load_part[part][rest] = value
        load_state(self._network, load_part["model"])
        load_moments(self._optimizer, load_part["adam"])


Progress = Callable[[int, Mapping[str, float]], None]
Score = Callable[[nn.Module], float | None]


def _silent(line: str) -> None:
    """Says nothing."""


def _on(step: int) -> None:
    """Nobody watches."""


@dataclass
class Trainer:
    """One worker's part of a training.

    Args:
        spec: settings of the loop.
        network: with its initial weights, on the CPU or the device.
        objective: what to minimise; not yet prepared.
        share: this worker's part of the batch, and of networks where those are split.
        folder: where checkpoints live.
        progress: called with (step, metrics) at each point of the loss curve.
        rank: 0 writes checkpoints.
        world: number of workers.
        engine: how the network is computed.
        watch: scores the student where the objective does not.
        say: takes lines for the job's log.
        settle: whether the engine recorded in the folder counts, and whether to compile is settled
            there; else `engine` is taken as it is.
        recompute: whether blocks are computed again on the way back.
        alive: called with the number of steps after each one.
        leaving: why this worker has to leave now; "" if it has not.
    """

    spec: TrainingSpec
    network: nn.Module
    objective: Objective
    share: Share
    folder: Blobs
    progress: Progress
    rank: int = 0
    world: int = 1
    engine: Engine = field(default_factory=Engine)
    watch: Watch | None = None
    say: Callable[[str], None] = _silent
    settle: bool = False
    recompute: bool = False
    alive: Callable[[int], None] = _on
    leaving: Callable[[], str] = str
    step: int = 0
    seconds: float = 0.0
    """Training time of earlier attempts, s."""
    saved: str = ""
    """Name of the last checkpoint."""
    ema: PowerEMA = field(init=False)
    profiles: list[PowerEMA] = field(init=False)
    """Averages of power profiles, of which snapshots are kept."""
    optimizer: torch.optim.Adam = field(init=False)
    companions: list[CompanionTrainer] = field(default_factory=list)
    scored: ScoredAverage | None = None

    def __post_init__(self) -> None:
        mesh = self.share.mesh
        if mesh is None:
            self.network = self.engine.place(self.network, self.share.device)
        if self.recompute:
            recompute_blocks(self.network)
        self._agreement: Agreement | None = None
        if mesh is not None:
            self._agreement = Agreement()
            self._mould = copy.deepcopy(self.network).cpu()  # what is split cannot be copied
            self.network = shard(self.network, mesh)
        self.optimizer = make_adam(self.spec, self.network.parameters(), self.share.device)
        self.ema = PowerEMA(self.network, self.spec.ema_decay)
        exponents = map(profile_exponent, self.spec.ema_profiles or ())
        self.profiles = [PowerEMA(self.network, exponent=one) for one in exponents]
        self._micro_batches = MicroBatches(
            self.spec.micro_batch,
            self.share,
            min(self.spec.batches().values()) // self.world,
            self.folder,
            self.rank,
            self.world,
            self.say,
            self._seed_dropout,
        )

    def run(self) -> None:
        """Trains from the newest checkpoint to the last step and leaves a final checkpoint.

        Raises:
            TrainingDiverged: the loss or the weights are NaN or infinite.
            Preempted: this worker has to leave; there is a checkpoint of its last step.
        """
        losses: list[Tensor] = []
        started = time.perf_counter()
        with CheckpointWriter(self.folder, self.spec.checkpoint_s) as writer:
            for loss in self.steps():
                self.alive(self.step)
                losses.append(loss)
                if self._is_due(self.spec.log_every):
                    self._log(losses)
                    losses = []
                leaves, is_due = self._wishes(writer)
                if leaves or is_due:
                    self._save(writer, time.perf_counter() - started, losses)
                if leaves:
                    writer.wait()
                    raise Preempted("", f"{leaves}: a checkpoint of step {self.step} was written")
            self._save(writer, time.perf_counter() - started, losses)
        in_step = self.share.mesh is not None
        note_final_errors(self.objective.final_errors(self._averaged), self.folder, in_step=in_step)

    def _wishes(self, writer: CheckpointWriter) -> tuple[str, bool]:
        """Why the first worker has to leave, and whether a checkpoint is due before the last."""
        if self.step == self.spec.steps:
            return "", False
        said = self.leaving(), writer.is_due()
        return said if self._agreement is None else self._agreement.first(said)

    def _averaged(self) -> nn.Module:
        network = self._copy().eval().requires_grad_(requires_grad=False)
        self.ema.copy_to(network)
        return network

    def _copy(self) -> nn.Module:
        """A network like the student's; its weights are those of some time or other."""
        mesh = self.share.mesh
        if mesh is None:
            return copy.deepcopy(self.network)
        return shard(copy.deepcopy(self._mould), mesh)

    def steps(self) -> Iterator[Tensor]:
        """Takes one optimizer step a turn, from the newest checkpoint to the last step.

        Yields:
            The step's loss, 0-dim, still on the device.
        """
        self._prepare()
        self._restore()
        model = self._distribute()
        self.network.train()
        if self.world > 1 and self.share.mesh is None and self.step < self.spec.steps:
            self._rehearse(model)
        self._compile(model)
        if self.step == 0:
            self._take_score()
        while self.step < self.spec.steps:
            with computing(), self.engine.products():
                loss = self._advance(model)
            if self._is_due(self._score_every()):
                self._take_score()
            if self._is_due(self.spec.snapshot_every):
                self._keep_averages()
            yield loss

    def _prepare(self) -> None:
        together(partial(self.objective.prepare, self.share))
        asked = (
            ("companion.", self.objective.score_network(), self.objective.score_network_loss),
            ("critic.", self.objective.image_critic(), self.objective.image_critic_loss),
        )
        for prefix, given, loss in asked:
            if given is None:
                continue
            if self.recompute:
                recompute_blocks(given.network)
            share, pieces = self.share, self._micro_batches
            made = CompanionTrainer(self.spec, given, loss, prefix, share, self.world, pieces)
            self.companions.append(made)
        if self.objective.score_every():
            self.scored = ScoredAverage(self._copy(), self.ema, self._agreed(self.objective.score))
        elif self.watch is not None:
            evaluator = self.watch.evaluator
            evaluator.prepare(self.share.device, self.rank, self.world)
            self.scored = ScoredAverage(self._copy(), self.ema, self._agreed(evaluator), keep=False)

    def _agreed(self, score: Score) -> Score:
        """A score that all workers know where all of them hold the best weights."""
        agreement = self._agreement
        return score if agreement is None else lambda network: agreement.first(score(network))

    def _compile(self, model: nn.Module) -> None:
        """Compiles all networks at their first step where that is settled, or asked for."""
        if self.settle and self.step < self.spec.steps:
            device, left = self.share.device, self.spec.steps - self.step
            rehearsal = self._rehearsal if self.share.mesh is None else None
            self.engine = settle_engine(
                self.folder, self.engine, device, self.rank, left, rehearsal
            )
        set_compiled(model, self.engine.compiled)
        self.objective.set_compiled(self.engine.compiled)

    def _rehearsal(self, compiled: bool) -> Callable[[], None]:
        """A step's gradient of a copy of the network, waiting for the device."""
        copied = copy.deepcopy(self.network)
        runner = self.engine.model_copy(update={"compiled": compiled}).runner(copied)
        optimizer = torch.optim.SGD(copied.parameters())  # takes no step

        def rehearse() -> None:
            self.objective.set_compiled(compiled)
            with self.engine.products():
                self._micro_batches.gradient(runner, optimizer, self._loss_of, self.step)
            if self.share.device.type != "cpu":
                torch.accelerator.synchronize()

        return rehearse

    def _score_every(self) -> int:
        """Steps between two scores; 0 = none are taken."""
        return self.objective.score_every() or (self.watch.every if self.watch else 0)

    def _is_due(self, every: int) -> bool:
        """Whether something done every so many steps, and at the last one, is due now."""
        return every > 0 and (self.step % every == 0 or self.step == self.spec.steps)

    def _take_score(self) -> None:
        score = None if self.scored is None else self.scored.score(self.step)
        if score is not None and self.rank == 0:
            note_score(self.folder, self.step, score)

    def _keep_averages(self) -> None:
        """A snapshot of the averages of power profiles, by the number of each.

        The first worker writes it; where networks are split, the others give it their parts.
        """
        numbered = enumerate(self.profiles)
        averages = {f"{n}.{name}": v for n, one in numbered for name, v in one.average.items()}
        held = {name: whole(value) for name, value in averages.items()}
        if self.rank > 0:
            return
        held = {name: value.cpu() for name, value in held.items()}
        self.folder.write(average_file(self.step), safetensors_pieces(held))

    def _rehearse(self, model: nn.Module) -> None:
        """Finds micro-batches that fit on all workers before they wait for each other."""
        for companion in self.companions:
            companion.rehearse(self._runner, self.step)
        self._micro_batches.rehearse(model, self.optimizer, self._loss_of, self.step)

    def _loss_of(self, model: nn.Module, part: Part) -> Tensor:
        return self.objective.loss(model, self.step, part)

    def _advance(self, model: nn.Module) -> Tensor:
        """One optimizer step; returns its loss, still on the device."""
        self._seed_dropout()
        rate = learning_rate(self.spec, self.step)
        for companion in self.companions:
            companion.advance(self._runner, self.step, rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._micro_batches.gradient(model, self.optimizer, self._loss_of, self.step)
        if self.spec.gradient_clip is not None:
            clip_gradient(self.network.parameters(), self.spec.gradient_clip)
        self.optimizer.step()
        for average in (self.ema, *self.profiles):
            average.update()
        self.step += 1
        return loss

    def _seed_dropout(self) -> None:
        """Makes dropout masks a function of (seed, step, rank).

        The device's own generator only: `torch.manual_seed` also queues calls for backends that
        were never started, with a stack trace each.
        """
        seed = derive_seed(self.spec.seed or 0, "dropout", self.step, self.rank)
        if self.share.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)

    def _distribute(self) -> nn.Module:
        runner = self.engine.runner(self.network)
        set_compiled(runner, compiled=False)  # `_compile` does, after all that is tried out
        self._runner = runner
        if self.world == 1 or self.share.mesh is not None:
            return runner
        devices = [self.share.device] if self.share.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(
            runner, device_ids=devices, gradient_as_bucket_view=True
        )

    def _log(self, losses: list[Tensor]) -> None:
        stacked = torch.stack(losses)
        if self.world > 1:
            torch.distributed.all_reduce(stacked)
            stacked = stacked / self.world
        values = stacked.tolist()
        for offset, value in enumerate(values):
            if not math.isfinite(value):
                self._diverged(f"the loss became {value}", self.step - len(values) + offset)
        if not self._is_finite():
            self._diverged("the weights became NaN or infinite", self.step - 1)
        parts = {name: float(part) for name, part in self.objective.report().items()}
        if self.scored is not None and self.scored.scores is not None:
            parts["score"] = self.scored.scores.last
        if self._micro_batches.halved:
            parts["micro_batch"] = self._micro_batches.samples
        rate = learning_rate(self.spec, self.step - 1)
        mean = sum(values) / len(values)
        self.progress(self.step, {"loss": mean, "learning_rate": rate, **parts})

    def _is_finite(self) -> bool:
        """Whether every weight is; waits for the device."""
        return bool(total_norm(self.network.parameters()).isfinite())

    def _diverged(self, what: str, step: int) -> None:
        last = self.saved or "none was written yet"
        raise TrainingDiverged(
            "",
            f"{what} at step {step}; last good checkpoint: {last}",
            "lower learning_rate, raise warmup or set gradient_clip, then submit again",
        )

    def _save(self, writer: CheckpointWriter, seconds: float, unlogged: Sequence[Tensor]) -> None:
        """Begins a checkpoint, but none of a training that diverged: the next log will say so.

        The first worker writes it; where networks are split, the others give it their parts.
        """
        if self.rank > 0 and self._agreement is None:
            return
        is_fine = self._is_finite() and all(loss.isfinite() for loss in unlogged)
        if self._agreement is not None:
            is_fine = self._agreement.all(is_fine)
        if not is_fine:
            return
        if self.rank == 0:
            writer.begin(Checkpoint(self.step, self.seconds + seconds, self._state()))
        else:
            for each in self._state().values():
                whole(each)
        self.saved = checkpoint_name(self.step)

    def _state(self) -> dict[str, Tensor]:
        state = {f"model.{name}": value for name, value in self.network.state_dict().items()}
        state |= {f"ema.{name}": value for name, value in self.ema.average.items()}
        for number, one in enumerate(self.profiles):
            state |= {f"profile{number}.{name}": v for name, v in one.average.items()}
        moments = moments_of(self.optimizer)
        state |= {f"adam.{name}": value for name, value in moments.items()}
        for part in (*self.companions, self.scored):
            state |= part.state() if part is not None else {}
        return state

    def _restore(self) -> None:
        checkpoint = load_checkpoint(self.folder)
        if checkpoint is None:
            return
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "adam": {}}
        for name, value in checkpoint.tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = value
        load_state(self.network, parts["model"])
        self.ema.load(parts["ema"], checkpoint.step)
        for number, one in enumerate(self.profiles):
            one.load(parts[f"profile{number}"], checkpoint.step)
        load_moments(self.optimizer, parts["adam"])
        for each in (*self.companions, self.scored):
            if each is not None:
                each.load(checkpoint.tensors)
        self.step, self.seconds = checkpoint.step, checkpoint.seconds
        self.saved = checkpoint_name(checkpoint.step)


def learning_rate(spec: TrainingSpec, step: int) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then constant or cosine."""
    warm = min(1.0, (step + 1) / spec.warmup) if spec.warmup else 1.0
    if spec.decay == "constant":
        return spec.learning_rate * warm
    done = max(0, step - spec.warmup) / max(1, spec.steps - spec.warmup)
    return spec.learning_rate * warm * (1 + math.cos(math.pi * done)) / 2
