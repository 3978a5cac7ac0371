"""A step's gradient in pieces that fit into memory.

The optimizer moves only once all pieces are done, so running out of memory costs a repeated step
and changes it by rounding alone: the pieces are halved and the gradient is computed anew. One
worker may run out where others do not. Before the first step all of them try a piece and agree; a
worker that runs out later cannot tell those who wait for it in an exchange, so it leaves the
smaller piece in the work folder and fails, and all start again with it from the last checkpoint.
"""

import gc
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from slimctl.jobs.base.errors import OutOfMemory, WorkLost
from slimctl.jobs.base.failures import MEMORY
from slimctl.jobs.storage.blobs import Blobs
from slimctl.jobs.training.objective import Part, Share
from slimctl.models.spec import Spec

RECORD = "micro_batch.json"
LossOf = Callable[[nn.Module, Part], Tensor]
"""What a part adds to the mean loss over the share, given the module to call."""


class Halving(Spec):
    """A time at which memory did not suffice."""

    step: int = Field(ge=0)
    """Optimizer step that was computed."""
    samples: int = Field(ge=1)
    """Samples that a worker computed at once."""


class MicroBatchRecord(Spec):
    """What a training found to fit, kept with its checkpoints."""

    samples: int = Field(ge=1)
    """Most samples that a worker computes at once."""
    halved: tuple[Halving, ...] = ()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device's memory does not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or bool(MEMORY.search(str(error)))


def noted_micro_batch(folder: Blobs) -> Mapping[str, object]:
    """For the manifest: the micro-batch and each halving; empty where memory sufficed."""
    record = _read(folder)
    if record is None:
        return {}
    said = [f"{one.samples} samples did not fit at step {one.step}" for one in record.halved]
    return {"micro_batch": record.samples, "out_of_memory": said}


def _read(folder: Blobs) -> MicroBatchRecord | None:
    try:
        return MicroBatchRecord.model_validate_json(folder.read(RECORD))
    except (FileNotFoundError, ValidationError):
        return None


class MicroBatches:
    """Computes gradients in pieces, and finds out how small they have to be.

    Args:
        asked: samples of a piece; `auto` = the whole share.
        share: what is cut.
        smallest: samples of this worker's smallest batch: there are no more pieces than that.
        folder: where the record of what fits is.
        rank: 0 writes that record.
        world: number of workers.
        say: takes a line for the job's log.
        reseed: sets the device's random generator for the current step, before it is repeated.
    """

    def __init__(
        self,
        asked: int | Literal["auto"],
        share: Share,
        smallest: int,
        folder: Blobs,
        rank: int,
        world: int,
        say: Callable[[str], None],
        reseed: Callable[[], None],
    ) -> None:
        self._share = share
        self._most_parts = min(smallest, share.count)
        self._folder = folder
        self._rank = rank
        self._world = world
        self._say = say
        self._reseed = reseed
        known = _read(folder)
        samples = share.count if asked == "auto" else min(asked, share.count)
        self._record = known or MicroBatchRecord(samples=samples)
        self.samples = min(samples, self._record.samples)
        """Most samples of a piece."""

    @property
    def parts(self) -> int:
        """Pieces of a share."""
        return min(self._most_parts, -(-self._share.count // self.samples))

    @property
    def halved(self) -> bool:
        """Whether memory once did not suffice."""
        return bool(self._record.halved)

    def gradient(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: LossOf, step: int
    ) -> Tensor:
        """Leaves the gradient of the share's mean loss in the weights; returns that loss, 0-dim.

        Args:
            model: what is called, spread over the workers where there are several.
            optimizer: of its weights; it does not move here.
            loss_of: a part's loss.
            step: number of the optimizer step, for the record.

        Raises:
            OutOfMemory: a single sample does not fit.
            WorkLost: memory did not suffice on one of several workers; another attempt takes less.
        """
        while True:
            optimizer.zero_grad(set_to_none=True)
            try:
                return self._accumulated(model, loss_of)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self._world > 1:
                    self._halve(step, writes=True)
                    what = f"out of memory at step {step} on one of {self._world} workers"
                    raise WorkLost("", what) from error
            self._halve(step, writes=True)  # out here, where the traceback holds no activations
            self._reseed()

    def rehearse(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: LossOf, step: int
    ) -> None:
        """Finds pieces that fit on all of several workers; nothing but their size changes.

        What Adam takes at its first step is taken meanwhile.

        Raises:
            OutOfMemory: a single sample does not fit on one of the workers.
        """
        inner = model.module if isinstance(model, DistributedDataParallel) else model
        while not self._fits_everywhere(inner, optimizer, loss_of):
            self._halve(step, writes=self._rank == 0)

    def _fits_everywhere(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: LossOf
    ) -> bool:
        fits = True
        try:
            self._try_out(model, optimizer, loss_of)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            fits = False
        optimizer.zero_grad(set_to_none=True)
        agreed = torch.tensor([fits], dtype=torch.int32, device=self._share.device)
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MIN)
        return bool(agreed.item())

    def _try_out(self, model: nn.Module, optimizer: torch.optim.Optimizer, loss_of: LossOf) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        moments = [torch.empty_like(w) for w in weights if w not in optimizer.state for _ in "mv"]
        loss_of(model, Part(0, self.parts)).backward()  # type: ignore[no-untyped-call]
        del moments  # they had to be there until now

    def _accumulated(self, model: nn.Module, loss_of: LossOf) -> Tensor:
        """Adds up the gradients of all parts; workers exchange them with the last one's."""
        parts = self.parts
        total: Tensor | None = None
        for number in range(parts):
            with nullcontext() if number + 1 == parts else _alone(model):
                loss = loss_of(model, Part(number, parts))
                loss.backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _halve(self, step: int, *, writes: bool) -> None:
        if self.parts == self._most_parts:
            raise OutOfMemory(
                "",
                f"the memory of the device does not suffice for a micro-batch of "
                f"{-(-self._share.count // self.parts)} of {self._share.count} samples, the "
                f"smallest there is, at step {step}",
                "set checkpoint_activations: true, or shard: full with more workers, or use a "
                "larger device or a smaller network",
            )
        gc.collect()
        if self._share.device.type == "cuda":
            torch.cuda.empty_cache()
        halving = Halving(step=step, samples=self.samples)
        self.samples = max(1, self.samples // 2)
        self._record = MicroBatchRecord(
            samples=self.samples, halved=(*self._record.halved, halving)
        )
        if writes:
            self._folder.write(RECORD, self._record.model_dump_json().encode())
            self._say(
                f"out of memory with {halving.samples} samples at once at step {step}: "
                f"going on with {self.samples}"
            )


def _alone(model: nn.Module) -> AbstractContextManager[None]:
    """Keeps the gradients of several workers apart."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()
