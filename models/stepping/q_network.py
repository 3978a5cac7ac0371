"""The Q-network: the worth of each action in a state, and the policy that takes the best one."""

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from models.shapes import Float, Tensor
from models.stepping.environment import Integers, Observation


class QNetwork(nn.Module):
    """Worth of each action: Q(s, a) = V(s) + scale (A(s, a) - mean over a of A(s, a)).

    Linear layers with ReLU between them, the last of 1 + n numbers: V and A.

    Source: Wang et al., arXiv 1511.06581, equation 9, without the scale.
    """

    def __init__(
        self,
        observation_size: int,
        hidden: tuple[int, ...],
        actions: int,
        advantage_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self._scale = advantage_scale
        widths = (observation_size, *hidden, 1 + actions)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, seen: Float[Tensor, "b d"]) -> Float[Tensor, "b n"]:
        value, advantage = self.layers(seen).split((1, self._actions()), dim=1)
        centred = advantage - advantage.mean(dim=1, keepdim=True)
        worth: Tensor = value + self._scale * centred
        return worth

    def _actions(self) -> int:
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        return last.out_features - 1


class GreedyPolicy:
    """Takes the action of the highest worth; the smaller step where two are equal.

    Computed in float64: the rounding of a batch of another size then moves a worth by 1e-16, so
    that what is chosen for a sample does not depend on its batch mates.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        """Takes the weights of a `QNetwork` of any widths."""
        names = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
        names.sort(key=lambda name: int(name.rpartition(".")[2]))
        self._layers = [
            (
                weights[f"{name}.weight"].detach().double().cpu().numpy().T.copy(),
                weights[f"{name}.bias"].detach().double().cpu().numpy().copy(),
            )
            for name in names
        ]

    def __call__(self, seen: Observation) -> Integers:
        value = seen.astype(np.float64)
        for number, (weight, bias) in enumerate(self._layers):
            value = (np.maximum(value, 0.0) if number else value) @ weight + bias
        return np.asarray(value[:, 1:].argmax(axis=1), dtype=np.int64)


def initial_network(
    observation_size: int,
    hidden: tuple[int, ...],
    actions: int,
    seed: int,
    advantage_scale: float = 1.0,
) -> QNetwork:
    """A network with random weights that are a function of the seed; no global state is touched."""
    with torch.random.fork_rng(devices=[]):  # torch's own first weights are not used
        network = QNetwork(observation_size, hidden, actions, advantage_scale)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            else:
                bound = (6.0 / weight.shape[1]) ** 0.5
                weight.uniform_(-bound, bound, generator=generator)
        last = network.layers[-1]
        assert isinstance(last, nn.Linear)
        last.weight.mul_(0.1)
    return network
