"""An average of the weights over the course of training.

Its rate follows the number of updates, so it forgets the start in runs of every length: a power law
whose mean lag is a tenth of the steps done. It starts anew with every training stage.
"""

from collections.abc import Mapping

import torch
from torch import nn

from slimctl.models.shapes import Tensor
from slimctl.models.sharding import load_state, own_part, part_like


def power_decay(update: int, decay_max: float = 0.999999) -> float:
    """Weight of the old average in update number `update`, the first being 1.

    min(decay_max, (1 + n) / (10 + n)). Source: the code of SlimFlow (arXiv 2407.12718).
    """
    return min(decay_max, (1.0 + update) / (10.0 + update))


class PowerEMA:
    """The averaged state of a module, beginning with the state it has now.

    Floating entries (weights, running statistics) are averaged in float32; others, such as
    counters, are copied at each update. Build it when the module is on its device, and split if it
    is to be: it keeps the module's tensors, which may change their values but not be replaced, and
    the average of a weight in parts is in parts.
    """

    def __init__(self, module: nn.Module, decay_max: float = 0.999999) -> None:
        """Copies the state of `module`; decay_max in [0, 1] bounds the weight of the past."""
        self.updates = 0
        self._decay_max = decay_max
        state = {name: value.detach() for name, value in module.state_dict().items()}
        self._average = {
            name: value.float().clone() if value.is_floating_point() else value.clone()
            for name, value in state.items()
        }
        floating = [name for name, value in state.items() if value.is_floating_point()]
        self._averaged = [own_part(self._average[name]) for name in floating]
        self._live = [own_part(state[name]) for name in floating]
        self._copied = [
            (self._average[name], value)
            for name, value in state.items()
            if not value.is_floating_point()
        ]

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged state by name, to save or load; later updates change its tensors."""
        return dict(self._average)

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the module by 1 - power_decay of this update."""
        self.updates += 1
        if self._averaged:
            share = 1.0 - power_decay(self.updates, self._decay_max)
            live = [value.float() for value in self._live]
            # One kernel for all weights; torch's own optimizers use these functions too.
            torch._foreach_lerp_(self._averaged, live, share)
        for average, value in self._copied:
            average.copy_(value)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Writes the average into `module`, which has the same architecture.

        Raises:
            RuntimeError: entries of the two differ in name or shape.
        """
        load_state(module, self._average)

    @torch.no_grad()
    def load(self, average: Mapping[str, Tensor], updates: int) -> None:
        """Continues from a saved average and its number of updates.

        Raises:
            ValueError: entries of the two differ in name or shape.
        """
        wanted = {name: tuple(value.shape) for name, value in self._average.items()}
        given = {name: tuple(value.shape) for name, value in average.items()}
        if wanted != given:
            names = sorted(name for name in wanted | given if wanted.get(name) != given.get(name))
            raise ValueError(
                f"the saved average does not fit the network: {len(names)} entries differ, the "
                f"first is {names[0]}: load it into the network that it was made from"
            )
        for name, value in average.items():
            self._average[name].copy_(part_like(value, self._average[name]))
        self.updates = updates
