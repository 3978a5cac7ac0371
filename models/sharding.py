"""Networks in parts: each of several workers holds its part of every weight.

A block's weights are gathered when it is computed and dropped again afterwards; gradients are
averaged and only the own part of them is kept. So is what is made from weights: their average and
an optimizer's moments. A tensor in parts behaves as the whole one, but for what only one worker
does with it: `whole` takes all of them.

Source: Rajbhandari et al., ZeRO, arXiv 1910.02054, stage 3; torch's `fully_shard`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from slimctl.models.shapes import Tensor


def shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Splits a network over the workers of a mesh and moves it to their devices; returns it.

    Each block that it names as `recomputable` is gathered alone, the rest of it together. All
    workers call it, and the network itself, never a layer of it, equally often.
    """
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415  (starts slowly)

    for weight in network.parameters():
        weight.data = weight.data.contiguous()  # no other order can be split
    for part in (*blocks_of(network), network):
        part.register_forward_hook(_no_view)
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    return network


def _no_view(module: nn.Module, given: Any, output: Any) -> Any:
    """What a layer gives as tensors of their own: gathering for the way back hangs on them."""
    if isinstance(output, tuple):
        return tuple(_no_view(module, given, each) for each in output)
    is_view = isinstance(output, torch.Tensor) and output._is_view()  # noqa: SLF001
    return output.clone() if is_view else output


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The parts that are gathered one after another."""
    return [block for part in network.modules() for block in getattr(part, "recomputable", ())]


def is_in_parts(tensor: Tensor) -> bool:
    """Whether other workers have other parts of a tensor."""
    return hasattr(tensor, "full_tensor")  # torch's DTensor, whose module starts slowly


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece; of one in parts all workers have to ask."""
    parts: Any = tensor
    made: Tensor = parts.full_tensor() if is_in_parts(tensor) else tensor
    return made


def own_part(tensor: Tensor) -> Tensor:
    """What this worker holds of a tensor, which it shares; all of one that is not in parts."""
    parts: Any = tensor
    held: Tensor = parts.to_local() if is_in_parts(tensor) else tensor
    return held


def part_like(tensor: Tensor, mould: Tensor) -> Tensor:
    """A whole tensor in parts like another one, on its device; as it is where that is whole."""
    if is_in_parts(tensor) or not is_in_parts(mould):
        return tensor
    from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415

    parts: Any = mould
    moved = tensor.to(mould.device)
    return distribute_tensor(moved, parts.device_mesh, parts.placements, src_data_rank=None)


def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads a state of whole tensors into a module, which may be in parts.

    Raises:
        RuntimeError: entries of the two differ in name or shape.
    """
    own = module.state_dict()
    module.load_state_dict({n: part_like(x, own[n]) if n in own else x for n, x in state.items()})


def total_norm(tensors: Iterable[Tensor]) -> Tensor:
    """Norm of all numbers in tensors, 0-dim; of tensors in parts all workers have to ask."""
    return whole(nn.utils.get_total_norm(tensors, foreach=True))


def clip_gradient(weights: Iterable[nn.Parameter], largest: float) -> None:
    """Scales the gradient of weights down to a norm; of weights in parts on all workers."""
    known = [weight for weight in weights if weight.grad is not None]
    norm = total_norm(weight.grad for weight in known if weight.grad is not None)
    nn.utils.clip_grads_with_norm_(known, largest, norm, foreach=True)


def mesh_of(workers: int, device: torch.device) -> DeviceMesh:
    """All workers of the process group in a row."""
    return torch.distributed.device_mesh.init_device_mesh(device.type, (workers,))
