"""Training the network that an objective keeps beside the student's."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from slimctl.jobs.training.adam import load_moments, make_adam, moments_of
from slimctl.jobs.training.objective import Companion, Objective
from slimctl.jobs.training.spec import TrainingSpec

PREFIX = "companion."
"""Of the companion's tensors in a checkpoint."""


class CompanionTrainer:
    """A companion with its own Adam.

    Args:
        spec: settings of the loop; clipping and Adam's constants are shared.
        companion: what to train.
        device: where it is.
        world: number of workers.
    """

    def __init__(
        self, spec: TrainingSpec, companion: Companion, device: torch.device, world: int
    ) -> None:
        self._spec = spec
        self._companion = companion
        self._network = companion.network
        self._optimizer = make_adam(spec, self._network.parameters(), device)
        self._model = self._network
        if world > 1:
            devices = [device] if device.type == "cuda" else None
            self._model = nn.parallel.DistributedDataParallel(self._network, device_ids=devices)

    def advance(self, objective: Objective, network: nn.Module, step: int, rate: float) -> None:
        """Its updates before a step of the student, at a share of the student's learning rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate * self._companion.rate
        for update in range(self._companion.updates):
            self._optimizer.zero_grad(set_to_none=True)
            loss = objective.companion_loss(self._model, network, step, update)
            loss.backward()  # type: ignore[no-untyped-call]
            if self._spec.gradient_clip is not None:
                nn.utils.clip_grad_norm_(
                    self._network.parameters(), self._spec.gradient_clip, foreach=True
                )
            self._optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Weights and moments by name, for a checkpoint."""
        weights = self._network.state_dict()
        state = {f"{PREFIX}model.{name}": value for name, value in weights.items()}
        moments = moments_of(self._optimizer)
        return state | {f"{PREFIX}adam.{name}": value for name, value in moments.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Continues from what `state` named; a checkpoint's other tensors are left alone."""
        load_part = dict[str, dict[str, Tensor]](model={}, adam={})
        for name, value in state.items():
            if name.startswith(PREFIX):
                part, _, rest = name.removeprefix(PREFIX).partition(".")
                load_part[part][rest] = value
        self._network.load_state_dict(load_part["model"])
        load_moments(self._optimizer, load_part["adam"])
