"""Reads published weights: whole, by name, without executing anything from the file."""

from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from slimctl.models.checkpoints.torch_file import read_torch_file
from slimctl.models.networks.published_weights import differences, same_names
from slimctl.models.shapes import Tensor


def read_weight_file(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a file of torch.save or of safetensors.

    Raises:
        ValueError: it is neither, or holds something else than named tensors.
        OSError: it cannot be read.
    """
    with path.open("rb"):  # what cannot be read is not damaged
        pass
    try:
        content = load_file(path) if path.suffix == ".safetensors" else read_torch_file(path)
    except (ValueError, SafetensorError) as error:
        raise ValueError(
            f"{path} is no file of weights, or a damaged one\n  fix: fetch it again"
        ) from error
    named = isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )
    if not named or not content:
        raise ValueError(f"{path} holds no named tensors\n  fix: give the published state dict")
    return dict(content)


def fill(network: nn.Module, state: Mapping[str, Tensor], ignored: Collection[str] = ()) -> None:
    """Fills a network with tensors of the same names, frozen, in evaluation mode.

    Args:
        network: to fill; its buffers count.
        state: name -> tensor.
        ignored: beginnings (`fc.`) or endings (`.step`) of names that may be there, unused.

    Raises:
        ValueError: tensors are missing, misshapen or unexpected; every one is listed.
    """
    own = network.state_dict()
    kept = {
        name: value
        for name, value in state.items()
        if name in own or not _is_ignored(name, ignored)
    }
    mistakes = differences(kept, same_names(network), network)
    if mistakes:
        raise ValueError(
            f"the weights do not fit, {len(mistakes)} tensors differ:\n  " + "\n  ".join(mistakes)
        )
    network.load_state_dict({name: state[name].to(own[name].dtype) for name in own})
    network.eval().requires_grad_(requires_grad=False)


def _is_ignored(name: str, ignored: Collection[str]) -> bool:
    return any(name.startswith(one) if one.endswith(".") else name.endswith(one) for one in ignored)
