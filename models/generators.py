"""One-step generators, and models of any kind that `slimctl export` wrote to a folder."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.flows.losses import one_step_velocity
from slimctl.models.model_folder import ModelDescription, open_model_folder, read_description
from slimctl.models.pixels import to_uint8
from slimctl.models.sampling import Sampler
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.spec import ImageShape


class OneStepGenerator(nn.Module):
    """Generates x0 + v(x0, t_start), the factor exactly 1 whatever t_start is.

    Source: SlimFlow, arXiv 2407.12718, section 4; its students were trained at t_start = 1e-3 of
    our time, ours start at 0.
    """

    def __init__(self, network: nn.Module, image: ImageShape, t_start: float = 0.0) -> None:
        """Wraps `network(xt, t, label)`; raises ValueError if t_start is outside [0, 1)."""
        super().__init__()
        self.flow = NetworkFlow(network, image, t_start)

    @property
    def image(self) -> ImageShape:
        """Shape of the images and number of classes."""
        return self.flow.image

    @property
    def t_start(self) -> float:
        """Flow time at which the network sees the noise."""
        return self.flow.t_start

    def generate(
        self, x0: Float[Tensor, "b c h w"], label: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Images of noise x0, not clipped; label as in `Flow.velocity`."""
        return x0 + one_step_velocity(self.flow, x0, label)

    def forward(self, x0: Tensor, label: Tensor | None = None) -> Tensor:
        """The same as `generate`, for hooks, exporters and profilers."""
        images: Tensor = self.generate(x0, label)
        return images


class LoadedGenerator:
    """A model from a folder: images by number and seed, the same as `slimctl sample` draws.

    Attributes:
        description: what it is.
        sampler: draws float images, and those of given noise.
    """

    def __init__(self, description: ModelDescription, sampler: Sampler) -> None:
        self.description = description
        self.sampler = sampler

    def __call__(
        self,
        n: int,
        *,
        label: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int = 256,
    ) -> NDArray[np.uint8]:
        """Draws images.

        Args:
            n: how many.
            label: class of every image; None = the data's mix.
            seed: of noise and labels; image i of a seed is the same whatever n is.
            first: number of the first image.
            batch_size: images made at once; changes memory and time only.

        Returns:
            uint8 (n, H, W, C).

        Raises:
            ValueError: n or batch_size is below 1, or there is no such class.
        """
        known = self.sampler.classes()
        if n < 1 or batch_size < 1:
            raise ValueError(f"n is {n} and batch_size {batch_size}: both must be at least 1")
        if label is not None and label not in known:
            listed = ", ".join(map(str, known)) if known else "none: it is unconditional"
            raise ValueError(f"there is no class {label}; the classes are {listed}")
        drawn = self.sampler.draw(seed, n, batch_size, first, label)
        pixels = torch.cat([to_uint8(one.images).cpu() for one in drawn])
        made: NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).contiguous().numpy()
        return made


def load_generator(folder: str | Path, device: str = "cpu") -> LoadedGenerator:
    """Opens a folder that `slimctl export MODEL --to safetensors` made.

    Needs torch, numpy, safetensors and pydantic, and of this project only the package `models`.

    Args:
        folder: with `model.json` and its weights.
        device: where to compute: `cpu`, `cuda`, ...

    Raises:
        ModelFolderError: the folder holds no whole model; says what is wrong with it.
    """
    path = Path(folder)
    return LoadedGenerator(read_description(path), open_model_folder(path, torch.device(device)))
