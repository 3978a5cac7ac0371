"""Our own file of a flow: safetensors whose header says what network the tensors are of.

One file is enough to use a flow anywhere `models` runs: the header's entry `slimctl` is the JSON of
a `FlowHeader`, the tensors are `network.state_dict()`.
"""

import os
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from models.flows.edm import EDMFlow
from models.flows.flow import Flow, NetworkFlow
from models.networks.published_weights import Source, rename
from models.networks.registry import AnyNetworkSpec
from models.networks.spec import NetworkSpec
from models.spec import ImageShape, Spec
from models.teachers.architecture import Overrides, filled

ENTRY = "slimctl"
"""Name of the header's entry."""


class FlowHeader(Spec):
    """What a file of weights says about the flow that they belong to."""

    version: Literal[1] = 1
    """Of this description."""
    image: ImageShape
    """Images that the flow ends at."""
    network: AnyNetworkSpec
    """Architecture of the network."""
    prediction: Literal["velocity", "edm"] = "velocity"
    """What the network's output is: the velocity, or the F of an `EDMFlow`."""
    t_start: float = Field(default=0.0, ge=0, lt=1)
    """Flow time at which sampling starts; of an `EDMFlow`, 1 / (1 + sigma_max)."""
    sigma_data: float = Field(default=0.5, gt=0)
    """Standard deviation of the images, for `edm` only."""
    sigma_min: float = Field(default=0.002, gt=0)
    """Smallest noise level of the velocity, for `edm` only."""


def save_flow(flow: NetworkFlow | EDMFlow, network: NetworkSpec, path: Path) -> None:
    """Writes a flow; the file appears whole or not at all.

    Args:
        flow: what to write.
        network: the spec that its network was built from.
        path: file to write, usually `*.safetensors`.
    """
    header = FlowHeader(image=flow.image, network=network, t_start=flow.t_start)
    if isinstance(flow, EDMFlow):
        levels = {"sigma_data": flow.sigma_data, "sigma_min": flow.sigma_min}
        header = header.model_copy(update={"prediction": "edm", **levels})
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in flow.network.state_dict().items()
    }
    part = path.with_name(f"{path.name}.part")
    save_file(tensors, part, {ENTRY: header.model_dump_json()})
    os.replace(part, path)  # noqa: PTH105


def read_flow_file(path: Path, overrides: Overrides) -> Flow:
    """The flow of a file, frozen, in evaluation mode.

    Raises:
        ValueError: the file is damaged or says nothing of a network, or its tensors do not fit;
            every one that differs is listed.
    """
    if not overrides.ema:
        raise ValueError("holds one set of weights only\n  fix: leave out ema")
    try:
        with safe_open(path, "pt") as file:
            header = _header(file.metadata())
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"is no readable safetensors ({error})\n  fix: copy it again") from error
    image = header.image
    with torch.device("meta"):
        network = overrides.apply(header.network, image).build(image)
    sources = {name: Source((name,)) for name in network.state_dict()}
    # Tensors of safetensors lie in the mapped file: what is kept must not depend on it.
    own = {name: value.clone() for name, value in rename(state, sources, network).items()}
    t_start = header.t_start if overrides.t_start is None else overrides.t_start
    if header.prediction == "velocity":
        return NetworkFlow(filled(network, own), image, t_start)
    sigma_max = (1.0 - t_start) / t_start
    levels = (header.sigma_data, header.sigma_min, sigma_max)
    return EDMFlow(filled(network, own), image, *levels)


def _header(metadata: dict[str, str] | None) -> FlowHeader:
    entry = (metadata or {}).get(ENTRY)
    if entry is None:
        raise ValueError(
            "does not say what network its tensors are of"
            "\n  fix: write it with models.teachers.save_flow"
        )
    try:
        return FlowHeader.model_validate_json(entry)
    except ValidationError as error:
        reasons = "; ".join(mistake["msg"] for mistake in error.errors())
        raise ValueError(
            f"describes its flow in a way that this version does not know ({reasons})"
            "\n  fix: write it again with this version"
        ) from error
