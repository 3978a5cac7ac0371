"""NCSN++ traces into a single graph.

In a process of its own: the shape checks that pytest switches on cannot be traced.
"""

import subprocess
import sys

PROGRAM = """
import torch
from models.networks.song_unet.spec import SongUNetSpec
from models.spec import ImageShape

spec = SongUNetSpec(channels=8, channel_multipliers=(1, 2), blocks=1, attention_resolutions=(4,))
network = spec.build(ImageShape(channels=1, size=7, classes=3))
torch.nn.init.normal_(network.head.weight)
compiled = torch.compile(network, fullgraph=True, backend="eager")
arguments = torch.randn(2, 1, 7, 7), torch.rand(2), torch.tensor([0, 2])
assert torch.allclose(compiled(*arguments), network(*arguments), atol=1e-5)
"""


def test_network_compiles_into_one_graph():
    command = [sys.executable, "-c", PROGRAM]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
