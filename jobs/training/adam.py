"""Adam as every training here uses it, and its moments as named tensors."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from jobs.training.spec import TrainingSpec


def make_adam(
    spec: TrainingSpec, parameters: Iterable[nn.Parameter], device: torch.device
) -> torch.optim.Adam:
    """The optimizer of a spec; the loop sets its learning rate at every step."""
    return torch.optim.Adam(
        parameters,
        lr=spec.learning_rate,
        betas=spec.adam_betas,
        eps=spec.adam_epsilon,
        fused=device.type in ("cpu", "cuda"),
    )


def moments_of(optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """`<number of the parameter>.<moment>` -> tensor."""
    return {
        f"{index}.{name}": value
        for index, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def load_moments(optimizer: torch.optim.Adam, named: Mapping[str, Tensor]) -> None:
    """Continues from what `moments_of` named."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in named.items():
        index, _, moment = name.partition(".")
        moments.setdefault(int(index), {})[moment] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
