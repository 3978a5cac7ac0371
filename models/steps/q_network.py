"""The Q-network: the worth of each action in a state, and the policy that takes the best one."""

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from slimctl.models.shapes import Float, Tensor
from slimctl.models.steps.environment import Floats, Guess, Integers, Observation


def action_basis(actions: Floats, terms: int) -> Floats:
    """Functions of the action whose sums are the differences of worth.

    The first is 1 / a (what steps cost), then log a, a, log^2 a, log^3 a, ..., made orthonormal
    over the grid and of mean 0. With n - 1 of them any table of worths can be held.

    Returns:
        Their values (n, k), k <= min(terms, n - 1).
    """
    place = np.log(actions / actions[0]) / np.log(actions[-1] / actions[0]) * 2.0 - 1.0
    powers = [place**power for power in range(2, len(actions))]
    raw = np.stack([actions[0] / actions, place, actions / actions[-1], *powers], axis=1)
    columns: list[Floats] = []
    for column in raw.T:
        rest = column - column.mean()
        for known in columns * 2:  # twice, since rounding leaves some of it the first time
            rest = rest - known * (known @ rest)
            rest = rest - rest.mean()
        size = np.linalg.norm(rest)
        if size > 1e-6 and len(columns) < min(terms, len(actions) - 1):
            columns.append(rest / size)
    return np.asarray(np.stack(columns, axis=1) * np.sqrt(len(actions)))


class QNetwork(nn.Module):
    """Worth of each action: Q(s, a) = V(s) + scale sum_k c_k(s) b_k(a).

    V and the c_k are the output of linear layers with ReLU between them. The b_k are smooth
    functions of the step size: one decision of hundreds changes a return by a thousandth of its
    noise. It shows at the extremes of the grid first, and they then say where the best is in
    between.

    Source: value and advantage apart as in Wang et al., arXiv 1511.06581; the basis is ours.
    """

    def __init__(
        self,
        observation_size: int,
        hidden: tuple[int, ...],
        basis: Floats,
        advantage_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.basis: Tensor
        self.register_buffer(
            "basis", torch.from_numpy(advantage_scale * basis.T).float().contiguous()
        )
        widths = (observation_size, *hidden, 1 + basis.shape[1])
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, seen: Float[Tensor, "b d"]) -> Float[Tensor, "b n"]:
        found = self.layers(seen)
        worth: Tensor = found[:, :1] + found[:, 1:] @ self.basis
        return worth


class GreedyPolicy:
    """Takes the action of the highest worth; the smaller step where two are equal.

    Computed in float64: the rounding of a batch of another size then moves a worth by 1e-16, so
    that what is chosen for a sample does not depend on its batch mates.
    """

    def __init__(self, weights: Mapping[str, Tensor], guess: Guess | None = None) -> None:
        """Takes the weights of a `QNetwork` of any widths, and what its worths are added to."""
        self._guess = guess
        names = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
        names.sort(key=lambda name: int(name.rpartition(".")[2]))
        self._layers = [
            (
                weights[f"{name}.weight"].detach().double().cpu().numpy().T.copy(),
                weights[f"{name}.bias"].detach().double().cpu().numpy().copy(),
            )
            for name in names
        ]
        self._basis = weights["basis"].detach().double().cpu().numpy()

    def __call__(self, seen: Observation) -> Integers:
        value = seen.astype(np.float64)
        for number, (weight, bias) in enumerate(self._layers):
            value = (np.maximum(value, 0.0) if number else value) @ weight + bias
        worth = value[:, 1:] @ self._basis
        if self._guess is not None:
            worth += self._guess(seen)
        return np.asarray(worth.argmax(axis=1), dtype=np.int64)


def initial_network(
    observation_size: int,
    hidden: tuple[int, ...],
    basis: Floats,
    seed: int,
    advantage_scale: float = 1.0,
) -> QNetwork:
    """A network with random weights that are a function of the seed; no global state is touched."""
    with torch.random.fork_rng(devices=[]):  # torch's own first weights are not used
        network = QNetwork(observation_size, hidden, basis, advantage_scale)
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
