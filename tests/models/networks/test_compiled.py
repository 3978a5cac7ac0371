"""The U-Nets trace into a single graph.

In a process of its own: the shape checks that pytest switches on cannot be traced.
"""

import subprocess
import sys

PROGRAM = """
import torch
from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

common = dict(channels=8, channel_multipliers=(1, 2), blocks=1, attention_resolutions=(4,))
edm = dict(embedding="fourier", encoder="residual", resampling="binomial", label_entry="features")
specs = SongUNetSpec(**common), SongUNetSpec(**common, **edm, augment=9)
for spec in (*specs, ADMSpec(**common, head_channels=4, augment=9)):
    network = spec.build(ImageShape(channels=1, size=7, classes=3))
    torch.nn.init.normal_(network.head.weight)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    arguments = torch.randn(2, 1, 7, 7), torch.rand(2), torch.tensor([0, 2])
    assert torch.allclose(compiled(*arguments), network(*arguments), atol=1e-5)
"""


def test_networks_compile_into_one_graph():
    command = [sys.executable, "-c", PROGRAM]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
