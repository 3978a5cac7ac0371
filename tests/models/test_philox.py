"""Philox's kernel gives the integers of the operations."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from slimctl.models import philox

INDEX, STEP = torch.tensor([0, 2**32 + 5, 2**48 - 1]), torch.tensor([0, 2**31, 2**32 - 1])


def test_words_are_philox_of_block_index_step_and_stream():
    found = torch.stack(philox.words((3, 4), INDEX, STEP, 9, 2))
    for sample, (index, step) in enumerate(zip(INDEX.tolist(), STEP.tolist(), strict=True)):
        for block in range(2):
            high = ((index >> 32) << 16) + 9
            counter = torch.tensor([block, index & 0xFFFFFFFF, step, high]).unbind()
            assert found[:, sample, block].tolist() == [
                int(w) for w in philox.philox((3, 4), counter)
            ]


KERNEL = """
import torch
from slimctl.models import philox, triton_philox
index, step = torch.tensor([0, 1, 2**32 + 5, 2**48 - 1]), torch.tensor([0, 7, 2**31, 2**32 - 1])
for key, stream, blocks in (((0, 1), 1, 1), ((2**32 - 1, 7), 2**16 - 1, 300), ((5, 0), 9, 768)):
    found = triton_philox.words(index, step, *key, stream, blocks)
    assert torch.equal(found, philox._formula(index, step, *key, stream, blocks))
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_the_kernel_makes_the_same_integers():
    """In Triton's interpreter, which has to be asked for before Triton is imported."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", KERNEL], env=environment, check=True, timeout=200)
