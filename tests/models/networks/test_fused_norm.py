"""The fused GroupNorm: its formula against torch's, its kernels against the formula."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.nn import functional

from slimctl.models.networks import fused_norm


def case(channels, groups, dtype=torch.float32, size=(5, 3)):
    generator = torch.Generator().manual_seed(channels)
    layer = nn.GroupNorm(groups, channels, eps=1e-6)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(channels, generator=generator))
        layer.bias.copy_(torch.randn(channels, generator=generator))
    x = 3.0 + 2.0 * torch.randn(2, channels, *size, generator=generator)
    return layer, x.to(dtype).contiguous(memory_format=torch.channels_last)


def gradients(y, x, layer):
    weights = torch.linspace(-1, 1, y.numel()).view(y.shape)
    return torch.autograd.grad((y.float() * weights).sum(), (x, layer.weight, layer.bias))


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (15, 3), (5, 1)])
def test_the_formula_and_its_gradient_are_torchs(channels, groups, silu):
    layer, x = case(channels, groups)
    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found = fused_norm._apply(layer, mine, silu=silu)
    wanted = functional.silu(layer(theirs)) if silu else layer(theirs)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    for pair in zip(gradients(found, mine, layer), gradients(wanted, theirs, layer), strict=True):
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-4)


def test_it_keeps_type_and_memory_format_and_rounds_once():
    layer, x = case(8, 2, torch.bfloat16)
    found = fused_norm._apply(layer, x, silu=True)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, functional.silu(layer(x.float())).bfloat16())


def test_a_cpu_has_torchs_own():
    layer, x = case(8, 2)
    assert torch.equal(fused_norm.norm_silu(layer, x), functional.silu(layer(x)))
    assert torch.equal(fused_norm.norm(layer, x), layer(x))


KERNELS = """
import torch
from slimctl.models.networks import fused_norm, triton_norm
torch.manual_seed(0)
for channels, groups, size, dtype in ((8, 2, 4, torch.float32), (15, 3, 70, torch.bfloat16)):
    for silu in (False, True):
        shape = (2, channels, size, size)
        x, dy = (torch.randn(shape).to(dtype).contiguous(memory_format=torch.channels_last) + 1
                 for _ in range(2))
        weight, bias = torch.randn(channels), torch.randn(channels)
        found = triton_norm.forward(x, weight, bias, groups, 1e-6, silu)
        wanted = fused_norm._forward(x, weight, bias, groups, 1e-6, silu)
        arguments = (dy, x, weight, bias, *wanted[1:], groups, silu)
        found += triton_norm.backward(*arguments)
        wanted += fused_norm._backward(*arguments)
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == other.dtype and one.stride() == other.stride()
            rough = 2e-2 if one.dtype == torch.bfloat16 else 1e-3
            torch.testing.assert_close(one, other, rtol=rough, atol=rough)
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_are_the_formula():
    """In Triton's interpreter, which has to be asked for before Triton is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", KERNELS], env=environment, check=True, timeout=200)
