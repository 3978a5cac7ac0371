"""What a training minimises: a loss at a step, on this worker's share of the batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from slimctl.jobs.base.context import Handles, JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.registry import kind_of, load_entry
from slimctl.jobs.base.spec import JobSpec
from slimctl.models.engine import set_compiled
from slimctl.models.spec import installed

ENTRY_POINTS = "slimctl.objectives"
"""Group in which a package names the objective of a kind: `<kind> = module:ObjectiveClass`."""


@dataclass(frozen=True)
class Share:
    """The part of every global batch that one worker computes."""

    first: int
    """Position of its first sample in the global batch."""
    count: int
    batch_size: int
    """Samples of the global batch."""
    device: torch.device
    mesh: DeviceMesh | None = None
    """The workers, where each holds a part of every network (`models.sharding`): then all of them
    call each network equally often. None = each holds all."""

    @property
    def rank(self) -> int:
        """Number of this worker."""
        return self.first // self.count

    @property
    def world(self) -> int:
        """Number of workers."""
        return self.batch_size // self.count

    def of(self, batch_size: int) -> "Share":
        """The same part of a global batch of another size, which splits as evenly."""
        first = self.first * batch_size // self.batch_size
        count = self.count * batch_size // self.batch_size
        return replace(self, first=first, count=count, batch_size=batch_size)

    def positions(self) -> Tensor:
        """Positions of its samples in the global batch, int64 (count,)."""
        return torch.arange(self.first, self.first + self.count, device=self.device)


@dataclass(frozen=True)
class Part:
    """A micro-batch: one of the pieces that a share is computed in, one after another."""

    number: int = 0
    of: int = 1
    """Pieces of the share; no batch of a step has fewer samples than that."""

    def rows(self, count: int) -> slice:
        """Which of `count` samples it has; the pieces' sizes differ by one at most."""
        return slice(self.number * count // self.of, (self.number + 1) * count // self.of)


WHOLE = Part()
"""The share in one piece."""


@dataclass(frozen=True)
class ScoreNetwork:
    """A network that is trained beside the student's and thrown away at the end.

    Args:
        network: with its first weights, on the device, in the mode that it is to be trained in.
        updates: its optimizer steps before each one of the student's, >= 1.
        rate: its learning rate over the student's, which both follow through warm-up and decay.
        adam_betas: decay rates of its Adam's moments; None = the student's.
        adam_epsilon: of its Adam; None = the student's.
        whole: whether each worker holds all of it, also where other networks are split: its loss
            contains a gradient.
    """

    network: nn.Module
    updates: int
    rate: float
    adam_betas: tuple[float, float] | None = None
    adam_epsilon: float | None = None
    whole: bool = False


class Objective(ABC):
    """A loss as a pure function of (network, step), once its data is loaded.

    With a score network it is also a function of that network's weights, which the loop trains,
    saves and restores like the student's. Instances travel to the workers by pickle before
    `prepare`, so they hold the spec of their job and its handles only.
    """

    @abstractmethod
    def prepare(self, share: Share) -> None:
        """Loads data and frozen networks to this worker's device, those split over a mesh."""

    @abstractmethod
    def loss(self, network: nn.Module, step: int, part: Part = WHOLE) -> Tensor:
        """What a part adds to the mean loss over this worker's share of a batch, 0-dim.

        Args:
            network: in training; a sample's output depends on no other sample.
            step: optimizer step, from 0.
            part: of the share; the sum over all parts is the mean over the share.
        """

    def set_compiled(self, compiled: bool) -> None:
        """Compiles the networks that it holds as attributes, as the student is, or leaves them."""
        for held in vars(self).values():
            if isinstance(held, nn.Module):
                set_compiled(held, compiled)

    def report(self) -> dict[str, Tensor]:
        """Terms of the last step's loss, for the curves."""
        return {}

    def score_network(self) -> ScoreNetwork | None:
        """The network trained beside the student's; asked once, after `prepare`."""
        return None

    def score_network_loss(
        self,
        score_network: nn.Module,
        network: nn.Module,
        step: int,
        update: int,
        part: Part = WHOLE,
    ) -> Tensor:
        """What the score network minimises before step `step`, in its update 0, 1, ...; 0-dim.

        The student's `network` gets no gradient. Of a part it is what `loss` is of one.
        """
        raise NotImplementedError

    def image_critic(self) -> ScoreNetwork | None:
        """A critic trained beside the student; asked once, after `prepare`."""
        return None

    def image_critic_loss(
        self, critic: nn.Module, network: nn.Module, step: int, update: int, part: Part = WHOLE
    ) -> Tensor:
        """What the critic minimises, as `score_network_loss` is what the score network does."""
        raise NotImplementedError

    def score_every(self) -> int:
        """Steps between two scores of the student; 0 = the last weights are the result."""
        return 0

    def score(self, network: nn.Module) -> float | None:
        """How far the averaged network is from what is wanted, lower being better.

        Asked on all workers at the same step; only what the first one says counts.
        """
        raise NotImplementedError

    def final_errors(self, averaged: Callable[[], nn.Module]) -> Iterable[Mapping[str, Tensor]]:
        """Errors to note with the result, of this worker's part of some samples, in pieces.

        Asked when the training is over, and for no more pieces when the time for it is. Each
        worker has equally many where networks are split over them.

        Args:
            averaged: makes the averaged network, in evaluation mode; on all workers.

        Returns:
            Name -> error of each sample of a piece, 1-D.
        """
        del averaged
        return ()


def note(report: dict[str, Tensor], name: str, value: Tensor, part: Part) -> None:
    """Adds a part's share of a term to a report, which the first part begins anew."""
    known = value.detach()
    report[name] = known if part.number == 0 else report[name] + known


def objective_of(context: JobContext, spec: JobSpec) -> Objective:
    """What an installed package trains its kind with, made as `Class(spec, handles)`.

    Args:
        context: of the job.
        spec: of the kind whose name the entry point bears.

    Raises:
        UserError: no package names an objective for that kind, or it cannot be loaded.
    """
    kind = kind_of(spec)
    entry = installed(ENTRY_POINTS).get(kind)
    if entry is None:
        fix = f"install the package that has '{kind}' in the entry-point group '{ENTRY_POINTS}'"
        raise UserError(f"job '{context.job}'", f"there is no objective for '{kind}'", fix)
    make = cast("Callable[[JobSpec, Handles], Objective]", load_entry(entry, Objective))
    return make(spec, context.handles)
