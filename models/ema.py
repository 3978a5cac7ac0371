"""An average of the weights over the course of training.

Its rate follows the number of updates, so it forgets the start in runs of every length: a power law
whose mean lag is a tenth of the steps done. It starts anew with every training stage.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from slimctl.models.shapes import Tensor
from slimctl.models.sharding import load_state, own_part, part_like


def power_decay(update: int, decay_max: float = 0.999999) -> float:
    """Weight of the old average in update number `update`, the first being 1.

    min(decay_max, (1 + n) / (10 + n)). Source: the code of SlimFlow (arXiv 2407.12718).
    """
    return min(decay_max, (1.0 + update) / (10.0 + update))


def profile_exponent(length: float) -> float:
    """Exponent g of the average whose weights grow as t^g, by the length of that profile.

    Args:
        length: standard deviation of the profile over the steps done, in (0, 0.28]; 0.1 is 6.94.

    Source: Karras et al. (EDM2), arXiv 2312.02696, equation 126: length^2 = (g + 1) / ((g + 2)^2
    (g + 3)).
    """
    a = 1.0 / length**2
    roots = np.roots([1.0, 7.0, 16.0 - a, 12.0 - a])
    return max(float(root.real) for root in roots if abs(root.imag) < 1e-9)


def profile_decay(update: int, exponent: float) -> float:
    """Weight of the old average in update number `update`, the first being 1: (1 - 1 / n)^(g + 1).

    Source: Karras et al. (EDM2), arXiv 2312.02696, equation 127.
    """
    return float((1.0 - 1.0 / update) ** (exponent + 1.0))


def reconstruction(
    kept: Sequence[tuple[int, float]], step: int, exponent: float
) -> tuple[float, ...]:
    """What each of some averages weighs in the one of another length, by least squares.

    Args:
        kept: (step, exponent) of each average.
        step: after which the wanted average is.
        exponent: of its profile.

    Source: Karras et al. (EDM2), arXiv 2312.02696, section 3.2 and appendix C: the profiles'
    products are (g + 1) (h + 1) / (g + h + 1) s^h / t^(h + 1), s <= t the steps, h that of t.
    """

    def product(first: tuple[int, float], second: tuple[int, float]) -> float:
        (s, g), (t, h) = sorted((first, second))
        value: float = (g + 1.0) * (h + 1.0) / (g + h + 1.0) * (s / t) ** h / t
        return value

    wanted = (step, exponent)
    products = np.array([[product(one, other) for other in kept] for one in kept])
    found = np.linalg.lstsq(products, np.array([product(one, wanted) for one in kept]), rcond=None)
    return tuple(map(float, found[0]))


class PowerEMA:
    """The averaged state of a module, beginning with the state it has now.

    Floating entries (weights, running statistics) are averaged in float32; others, such as
    counters, are copied at each update. Build it when the module is on its device, and split if it
    is to be: it keeps the module's tensors, which may change their values but not be replaced, and
    the average of a weight in parts is in parts.
    """

    def __init__(
        self, module: nn.Module, decay_max: float = 0.999999, exponent: float | None = None
    ) -> None:
        """Copies the state of `module`; decay_max in [0, 1] bounds the weight of the past.

        With an exponent it is the average of that power profile, which forgets the first state.
        """
        self.updates = 0
        self._decay_max = decay_max
        self._exponent = exponent
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
        """Moves the average towards the module by 1 - the decay of this update."""
        self.updates += 1
        if self._averaged:
            share = 1.0 - self._decay()
            live = [value.float() for value in self._live]
            # One kernel for all weights; torch's own optimizers use these functions too.
            torch._foreach_lerp_(self._averaged, live, share)
        for average, value in self._copied:
            average.copy_(value)

    def _decay(self) -> float:
        if self._exponent is None:
            return power_decay(self.updates, self._decay_max)
        return profile_decay(self.updates, self._exponent)

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
