"""The other side of `official_process`: starts it, asks it, translates weights for it."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.measure import Machine
from slimctl.models.metrics.cost import build_on_meta
from slimctl.models.networks.published_weights import Source
from slimctl.models.networks.song_unet.network import SongUNet
from slimctl.models.networks.song_unet.slimflow_weights import from_slimflow, sources
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape


class Official:
    """SlimFlow's own code on one case, in a process of its own.

    Args:
        checkout: of yuanzhi-zhu/SlimFlow.
        network: NCSN++ of the case.
        image: shape of its images.
        inputs: `x` and `x1` (B, C, H, W), `t` (B,), and weights under their official names.
        machine: where it computes.

    Raises:
        SystemExit: `checkout` is no such checkout.
    """

    def __init__(
        self,
        checkout: Path,
        network: SongUNetSpec,
        image: ImageShape,
        inputs: Mapping[str, Tensor],
        machine: Machine,
    ) -> None:
        if not (checkout / "models" / "ncsnpp.py").is_file():
            raise SystemExit(
                f"--reference {checkout}: is no checkout of yuanzhi-zhu/SlimFlow (it has no "
                "models/ncsnpp.py)\n  fix: git clone https://github.com/yuanzhi-zhu/SlimFlow"
            )
        self._network, self._image, self._machine = network, image, machine
        self._folder = tempfile.TemporaryDirectory(prefix="slimctl-benchmark-")
        self.folder = Path(self._folder.name)
        save_file(
            {name: value.cpu().contiguous() for name, value in inputs.items()},
            self.folder / "inputs.safetensors",
        )
        script = Path(__file__).with_name("official_process.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._send(
            {
                "reference": str(checkout.absolute()),
                "channels": network.channels,
                "multipliers": network.channel_multipliers,
                "blocks": network.blocks,
                "size": image.size,
                "image_channels": image.channels,
                "device": machine.device.type,
                "threads": machine.threads,
                "folder": str(self.folder),
                "random_weights": True,
            }
        )

    def ask(self, what: str) -> dict[str, Any]:
        """One answer of the process; it has waited for its device."""
        self._send({"do": what})
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(
                "the official code ended with an error (above)"
                "\n  fix: install what it needs beside torch: scipy"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def seconds(self, what: str) -> float:
        """Time of one answer, s, by the machine's clock."""
        answer = self.ask(what)
        return float(answer["cpu_s" if self._machine.on_cpu_time else "wall_s"])

    def our_network(self) -> SongUNet:
        """Our network with the weights that the official one has."""
        self.ask("save")
        network = self._network.build(self._image)
        state = load_file(self.folder / "official.safetensors")
        network.load_state_dict(from_slimflow(state, network))
        return network.to(self._machine.device)

    def output(self) -> Tensor:
        """What the official network gave last."""
        self.ask("write_last")
        return load_file(self.folder / "output.safetensors")["output"]

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._folder.cleanup()

    def _send(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()


def official_weights(network: SongUNet, spec: SongUNetSpec, image: ImageShape) -> dict[str, Tensor]:
    """The weights of our network under the official names, each led by `weights.`."""
    known = sources(build_on_meta(spec, image))  # type: ignore[arg-type]
    named: dict[str, Tensor] = {}
    for ours, value in network.state_dict().items():
        source: Source = known[ours]
        for name, part in zip(source.names, value.chunk(len(source.names)), strict=True):
            stored = part.T if source.layout == "transposed" else part
            named[f"weights.module.{name}"] = stored.detach().clone().contiguous()
    return named


def random_inputs(image: ImageShape, batch: int, machine: Machine) -> dict[str, Tensor]:
    """Noise, images and times of a batch, the same for both programs."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, image.channels, image.size, image.size)
    x, x1 = (torch.randn(shape, generator=generator) for _ in range(2))
    t = torch.rand(batch, generator=generator)
    return {name: value.to(machine.device) for name, value in {"x": x, "x1": x1, "t": t}.items()}
