"""What several tests of the models need."""

import pytest
import torch


def published(network, sources):
    """The network's state as a published checkpoint would have it: the inverse of `rename`."""
    ours, state = network.state_dict(), {}
    for parameter, source in sources.items():
        for name, part in zip(source.names, ours[parameter].chunk(len(source.names)), strict=True):
            state[name] = _laid_out(part, source.layout).clone()
    return state


def _laid_out(value, layout):
    if layout == "transposed":
        return value.T.contiguous()
    if layout == "interleaved":
        value = value.unflatten(0, (3, -1)).transpose(0, 1).flatten(0, 1)
    if layout in ("interleaved", "pointwise") and value.dim() == 2:
        return value[..., None, None]
    return value


def randomised(network, seed=0):
    """The network with weights that let every layer show in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / max(parameter[0].numel(), 4) ** 0.5)
    return network.eval()


@pytest.fixture(name="published")
def _published():
    return published


@pytest.fixture(name="randomised")
def _randomised():
    return randomised
