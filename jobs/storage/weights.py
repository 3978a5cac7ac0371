"""Weights between networks and artifacts, always whole: every tensor that differs is named."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slimctl.jobs.base.artifacts import FeatureNet, Flow, Generator
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage.store import Store


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors as safetensors."""
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, path)


def load_weights(network: nn.Module, store: Store, handle: Flow | Generator | FeatureNet) -> None:
    """Fills a network with an artifact's weights.

    Raises:
        UserError: a tensor is missing, unexpected or has another shape; all are listed.
    """
    weights = load_file(store.file(handle, handle.file))
    own = network.state_dict()
    problems = [f"{name} is missing" for name in own.keys() - weights.keys()]
    problems += [f"{name} is unexpected" for name in weights.keys() - own.keys()]
    problems += [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    if problems:
        raise UserError(
            handle.id,
            f"its weights do not fit the network: {'; '.join(sorted(problems))}",
            "use the architecture that these weights were made with",
        )
    network.load_state_dict(weights)
