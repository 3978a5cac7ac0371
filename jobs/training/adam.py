"""Adam as every training here uses it, and its moments as named tensors."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from slimctl.jobs.training.spec import TrainingSpec
from slimctl.models.engine import adam


def make_adam(
    spec: TrainingSpec, parameters: Iterable[nn.Parameter], device: torch.device
) -> torch.optim.Adam:
    """The optimizer of a spec; the loop sets its learning rate at every step."""
    return adam(parameters, device, spec.learning_rate, spec.adam_betas, spec.adam_epsilon)


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
            value = torch.empty_like(weight, requires_grad=False).copy_(value)
        moments.setdefault(int(index), {})[moment] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
