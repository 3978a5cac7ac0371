"""What a network takes of a device's memory, found without a device.

Weights, gradients and moments are counted; what an evaluation keeps on its way is traced: the
network runs on the meta device, where tensors have shapes and no numbers, and the bytes alive at
once are added up. bfloat16 is what autocast makes of it on a GPU: products in bfloat16, norms in
float32. Attention is a fused kernel, which keeps no matrix of pixels times pixels. Not in it: the
workspace of convolutions, what an allocator cannot use, and what the driver takes.

A trace takes about a second, so it is kept in the user's cache folder for as long as the code of
the networks and torch are the same.
"""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

from pydantic import Field

from slimctl.models.networks.size import network_size
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape, Spec
from slimctl.models.user_cache import kept

FLOAT = 4
"""Bytes of a number."""
FILE = "network_memory.json"


class Evaluation(Spec):
    """One way to run a network on a batch."""

    batch: int = Field(ge=1)
    """Images at once."""
    gradient: bool
    """Whether the gradient in its weights follows, as in training."""
    bfloat16: bool = False
    """Whether products are in bfloat16."""
    recompute: bool = False
    """Whether blocks are computed again on the way back."""


@cache
def weight_bytes(network: NetworkSpec, image: ImageShape) -> int:
    """Bytes of a network's parameters in float32."""
    return FLOAT * network_size(network, image).parameters


@cache
def gathered_bytes(network: NetworkSpec, image: ImageShape) -> int:
    """Most bytes that are whole at once of a network in parts, with their gradient.

    What is in no block is there throughout; of blocks the one that is computed, and the next one
    on its way.
    """
    from slimctl.models.metrics.cost import build_on_meta  # noqa: PLC0415
    from slimctl.models.sharding import blocks_of  # noqa: PLC0415

    module = build_on_meta(network, image)
    sizes = sorted(sum(w.numel() for w in block.parameters()) for block in blocks_of(module))
    rest = sum(weight.numel() for weight in module.parameters()) - sum(sizes)
    return 2 * FLOAT * (rest + sum(sizes[-2:]))


@cache
def evaluation_bytes(
    network: NetworkSpec, image: ImageShape, evaluation: Evaluation
) -> tuple[int, int]:
    """Bytes of an evaluation beside weights and images: at once at most, and kept for a gradient.

    The most counts the gradient of the weights as it comes to be.

    Raises:
        ValueError: the network cannot be built for images of that shape.
    """

    def trace() -> tuple[int, ...]:
        from slimctl.models.memory_trace import trace_network  # noqa: PLC0415

        how = evaluation.model_dump()
        return trace_network(network, image, how.pop("batch"), **how)

    asked = [each.model_dump_json() for each in (network, image, evaluation)]
    most, keeps = kept(FILE, "".join([*asked, code_of(Path(__file__).parent)]), trace)
    return most, keeps


@cache
def critic_bytes(network: NetworkSpec, image: ImageShape, batch: int) -> int:
    """Most bytes alive at once in a step of a critic of images, beside its weights.

    Raises:
        ValueError: the network cannot be built for images of that shape.
    """

    def trace() -> tuple[int, ...]:
        from slimctl.models.memory_trace import trace_critic  # noqa: PLC0415

        return trace_critic(network, image, batch)

    asked = "".join(each.model_dump_json() for each in (network, image))
    (most,) = kept(FILE, f"critic {asked} {batch} {code_of(Path(__file__).parent)}", trace)
    return most


@cache
def lpips_bytes(image: ImageShape, batch: int, size: int | None) -> int:
    """Most bytes alive at once in an LPIPS distance and its gradient, beside weights and images."""

    def trace() -> tuple[int, ...]:
        from slimctl.models.memory_trace import trace_lpips  # noqa: PLC0415

        return trace_lpips(image, batch, size)

    code = code_of(Path(__file__).parents[1] / "perceptual")
    (most,) = kept(FILE, f"lpips {image} {batch} {size} {code}", trace)
    return most


@cache
def code_of(folder: Path) -> str:
    """What a trace depends on besides its arguments: the code in a folder, and torch."""
    content = b"".join(file.read_bytes() for file in sorted(folder.rglob("*.py")))
    return f"{hashlib.sha256(content).hexdigest()} torch {version('torch')}"
