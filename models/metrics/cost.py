"""What a network costs: parameters, multiply-adds and measured time.

Multiply-adds are counted as published tables count them: the convolutions and linear layers of the
published code. Those of ADM include its resampling, a convolution there (0.015 %). Left out are
attention's matrix products and, in NCSN++, its projections (no layers in the published code; 3 % of
the largest CIFAR-10 network). Compare students by measured time.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from pydantic import Field
from torch import nn
from torch.func import functional_call

from slimctl.models.conditions import Condition
from slimctl.models.networks.autoencoder.spec import AutoencoderSpec
from slimctl.models.networks.layers import FixedFilter
from slimctl.models.networks.size import NetworkSize
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape, Spec

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""The layers that are counted, and `FixedFilter`: outputs * weights-per-output multiply-adds."""


class Latency(Spec):
    """Wall-clock time of one call."""

    median_ms: float = Field(ge=0)
    """Median over the timed calls, in milliseconds."""
    p90_ms: float = Field(ge=0)
    """The time in milliseconds that nine of ten calls stay within."""
    device: str
    """`cpu`, or the accelerator's own name."""
    threads: int = Field(ge=1)
    """Threads that torch used for one operation on the CPU."""


def count_parameters(module: nn.Module) -> int:
    """Number of scalars in the module's parameters; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(network: NetworkSpec | nn.Module, image: ImageShape) -> int:
    """Multiply-adds of one evaluation for one image, by the definition of this module.

    Nothing is computed: the network runs on the meta device. A given module is left as it is.

    Raises:
        ValueError: a spec cannot be built for images of that shape.
    """
    module = network if isinstance(network, nn.Module) else build_on_meta(network, image)
    with _counting(module) as counts:
        _evaluate_on_meta(module, image)
    return sum(counts)


def count_decoder(autoencoder: AutoencoderSpec, latents: ImageShape) -> NetworkSize:
    """Parameters of what decodes, and multiply-adds for the latents of one image.

    Raises:
        ValueError: the package that it is of is not installed.
    """
    with torch.device("meta"):
        module = autoencoder.build()
        code = torch.empty(1, latents.channels, latents.size, latents.size)
    with _counting(module) as counts, torch.no_grad():
        module.model.decode(code)
    decoding = [module.model.decoder, getattr(module.model, "post_quant_conv", None)]
    parameters = sum(count_parameters(part) for part in decoding if part is not None)
    return NetworkSize(parameters=parameters, macs=sum(counts))


@contextmanager
def _counting(module: nn.Module) -> Iterator[list[int]]:
    """Collects the multiply-adds of each layer of a module as it is evaluated."""
    counted = (*LAYERS, FixedFilter)
    layers: list[nn.Module] = [layer for layer in module.modules() if isinstance(layer, counted)]
    weights_per_output = {layer: _weights_per_output(layer) for layer in layers}
    counts: list[int] = []

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        counts.append(output.numel() * weights_per_output[layer])

    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def build_on_meta(network: NetworkSpec, image: ImageShape) -> nn.Module:
    """The network without memory for its weights: for counting, and for shapes to load into."""
    with torch.device("meta"):
        return network.build(image)


def measure_latency(
    call: Callable[[], object],
    device: torch.device | str,
    *,
    warmup: int = 3,
    repeats: int = 20,
) -> Latency:
    """Times `call`, waiting for the device after each one.

    Args:
        call: What to time; its result is dropped.
        device: Where it computes.
        warmup: Calls before the first timed one (compilation, caches, clock rates).
        repeats: Timed calls, at least 1.

    Raises:
        ValueError: there are no calls to time.
    """
    if repeats < 1:
        raise ValueError(f"repeats = {repeats} leaves nothing to time\n  fix: time at least 1 call")
    device = torch.device(device)
    times = []
    for index in range(warmup + repeats):
        start = time.perf_counter()
        call()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        if index >= warmup:
            times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    return Latency(
        median_ms=statistics.median(times),
        p90_ms=times[math.ceil(0.9 * len(times)) - 1],
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        threads=torch.get_num_threads(),
    )


def _weights_per_output(layer: nn.Module) -> int:
    if isinstance(layer, FixedFilter):
        return layer.taps
    return layer.get_parameter("weight")[0].numel()


def example_label(module: nn.Module, image: ImageShape, batch: int) -> Condition:
    """A condition of the form that a network takes, on the meta device."""
    if image.classes:
        return torch.empty(batch, dtype=torch.int64, device="meta")
    example = getattr(module, "example_text", None)
    text: Condition = example(batch, "meta") if example else None
    return text


def _evaluate_on_meta(module: nn.Module, image: ImageShape) -> None:
    xt = torch.empty(1, image.channels, image.size, image.size, device="meta")
    t = torch.empty(1, device="meta")
    label = example_label(module, image, 1)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    with torch.no_grad():
        functional_call(module, weights, (xt, t, label))
