"""How a network is computed: the one place that decides precision, memory format and compilation.

The choice is a function of the device's abilities and of what the network is computed for, never of
a clock, so two runs on one machine give the same bits. The one exception, compilation on a GPU, is
measured (`slimctl.models.compilation`) and must be kept with the work that it was measured for.

    training   bfloat16 products where the device has the instructions, float32 everywhere else:
               weights, their average, the optimizer's moments, the network's output and the loss
    sampling   float32: bfloat16 moves the end of a trajectory by more than 8-bit rounding

float32 products of a GPU are TF32's (10 bits of mantissa) in networks that train or sample, in
convolutions and matrix products alike, and IEEE's everywhere else: distances between features
would lose what they differ by. torch's own defaults take TF32 for convolutions and IEEE for
matrix products. Emulated on a CPU, TF32 moves end points by 1.3e-4 RMS, 6 % of 8-bit rounding.
`python -m benchmarks.gpu_session` says on a GPU whether that holds there, and whether float16 would
be faster still.

Measured on an EPYC with avx512_bf16, one thread, 0.4 to 16 multiply-adds (10^9) a batch: bfloat16
takes 0.57 to 0.82 of the time of a float32 training step at every size tried, from 16 channels at
8 x 8 up. In channels_last GroupNorm's CPU kernels cost more than the convolutions save (1.05 to
1.75 times the contiguous step), and compiling takes minutes, so a CPU has neither. A GPU's
convolutions want channels_last; that, fused Adam and compilation are untested on CUDA. cuDNN's
own choice by timing (`cudnn.benchmark`) stays off, or a resumed training would not be bit-equal.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from slimctl.models.shapes import Tensor
from slimctl.models.spec import SamplingPrecision, Spec

_Input = TypeVar("_Input", Tensor, Tensor | None)
Purpose = Literal["training", "sampling"]
"""What a network is computed for."""

_CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
_FIRST_CUDA_CAPABILITY = (8, 0)
"""Ampere: the first with bfloat16 and TF32 products."""


class Engine(Spec):
    """A choice, recorded with the result."""

    precision: SamplingPrecision = "float32"
    """Of matrix products and convolutions; everything else is float32."""
    tf32: bool = False
    """Whether float32 products on a GPU are TF32's; false = IEEE's."""
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    """Order of the weights and activations of convolutions."""
    compiled: bool = False
    """Whether torch.compile translates the network."""

    def place(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Moves a network to the device, in this memory format; returns it."""
        if self.memory_format == "channels_last":
            return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
        return network.to(device)

    def runner(self, network: nn.Module) -> nn.Module:
        """A module that computes `network`, whose weights it shares, in this way.

        Compiled, every size of batch has a program of its own (`dynamic=False`).
        """
        return network if self == Engine() else Runner(network, self)

    @contextmanager
    def products(self) -> Iterator[None]:
        """Float32 products on GPUs as this engine has them; afterwards as they were before."""
        backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
        before = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "tf32" if self.tf32 else "ieee"
            yield
        finally:
            for backend, value in zip(backends, before, strict=True):
                backend.fp32_precision = value


class Runner(nn.Module):
    """Calls a network as its engine says; the result is float32.

    Not an autocast over a whole loss: distances, targets and their gradients stay float32.
    """

    def __init__(self, network: nn.Module, engine: Engine) -> None:
        super().__init__()
        self.network = network
        self._engine = engine
        self._compiled: tuple[Callable[..., Tensor], ...] = ()  # no second submodule
        self.set_compiled(engine.compiled)

    def set_compiled(self, compiled: bool) -> None:
        """Compiles the network at the next call, or leaves it as it is from now on."""
        if compiled != bool(self._compiled):
            self._compiled = (torch.compile(self.network, dynamic=False),) if compiled else ()

    def forward(self, first: Tensor, *others: Any) -> Tensor:
        """Calls the network: `first` are images or points, the rest is passed on."""
        if self._engine.memory_format == "channels_last":
            first, others = _channels_last(first), tuple(map(_channels_last, others))
        (call,) = self._compiled or (self.network,)
        low = self._engine.precision != "float32"
        dtype = torch.float16 if self._engine.precision == "float16" else torch.bfloat16
        products = self._engine.products() if self._engine.tf32 else nullcontext()
        with products, torch.autocast(first.device.type, dtype, enabled=low):
            output: Tensor = call(first, *others)
        return output.float() if low else output


def _channels_last(value: _Input) -> _Input:
    """Images in that format; anything else as it is."""
    if not isinstance(value, Tensor) or value.dim() != 4:
        return value
    return value.contiguous(memory_format=torch.channels_last)


def set_compiled(module: nn.Module, compiled: bool) -> None:
    """Does so with every network behind an engine in a module."""
    for part in module.modules():
        if isinstance(part, Runner):
            part.set_compiled(compiled)


def without_engine(network: nn.Module) -> nn.Module:
    """The network itself, where it is behind a runner."""
    return network.network if isinstance(network, Runner) else network


def choose_engine(
    device: torch.device,
    purpose: Purpose,
    precision: SamplingPrecision | Literal["auto"] = "auto",
    *,
    in_parts: bool = False,
) -> Engine:
    """The engine of a device for a purpose, not compiled.

    Weights that are split over several workers (`in_parts`) have no order of their own.
    """
    if precision == "auto":
        fast = purpose == "training" and has_bfloat16(device)
        precision = "bfloat16" if fast else "float32"
    on_gpu = device.type == "cuda"
    return Engine(
        precision=precision,
        tf32=on_gpu and has_bfloat16(device),
        memory_format="channels_last" if on_gpu and not in_parts else "contiguous",
    )


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _FIRST_CUDA_CAPABILITY
    if device.type == "cpu":
        abilities = torch.cpu.get_capabilities()
        return any(abilities.get(name, False) for name in _CPU_INSTRUCTIONS)
    return False


def adam(
    parameters: Iterable[nn.Parameter],
    device: torch.device,
    learning_rate: float,
    betas: tuple[float, float],
    epsilon: float,
) -> torch.optim.Adam:
    """Adam in one kernel over all weights where the device has one."""
    return torch.optim.Adam(
        parameters, lr=learning_rate, betas=betas, eps=epsilon, fused=device.type in ("cpu", "cuda")
    )
