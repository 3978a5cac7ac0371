"""Our own file of a flow: safetensors whose header says what network the tensors are of.

One file is enough to use a flow anywhere `models` runs: the header's entry `slimctl` is the JSON of
a `FlowHeader`, the tensors are `network.state_dict()`.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from slimctl.models.flows.denoising import DiffusionFlow, EDMFlow
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.flows.parameterisation import EDMSchedule, Parameterisation, Schedule
from slimctl.models.networks.published_weights import Source, rename
from slimctl.models.networks.registry import AnyNetworkSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape
from slimctl.models.teachers.architecture import Overrides
from slimctl.models.teachers.saved_weights import is_averaged, lay_flat
from slimctl.models.teachers.slimflow_checkpoint import read_saved
from slimctl.models.teachers.teacher_file import TeacherFile, build_to_fill

ENTRY = "slimctl"
"""Name of the header's entry."""


class FlowHeader(Parameterisation):
    """What a file of weights says about the flow that they belong to."""

    version: Literal[1] = 1
    """Of this description."""
    image: ImageShape
    """Images that the flow ends at."""
    network: AnyNetworkSpec
    """Architecture of the network."""


def save_flow(
    flow: NetworkFlow | EDMFlow | DiffusionFlow,
    network: NetworkSpec,
    path: Path,
    schedule: Schedule | None = None,
) -> None:
    """Writes a flow; the file appears whole or not at all.

    Args:
        flow: what to write.
        network: the spec that its network was built from.
        path: file to write, usually `*.safetensors`.
        schedule: of a `DiffusionFlow`.

    Raises:
        ValueError: a `DiffusionFlow` without its schedule.
    """
    header = FlowHeader(image=flow.image, network=network, **_described(flow, schedule))
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in flow.network.state_dict().items()
    }
    part = path.with_name(f"{path.name}.part")
    save_file(tensors, part, {ENTRY: header.model_dump_json()})
    os.replace(part, path)  # noqa: PTH105


def _described(
    flow: NetworkFlow | EDMFlow | DiffusionFlow, schedule: Schedule | None
) -> dict[str, Any]:
    """The fields of a header that the flow tells."""
    if isinstance(flow, NetworkFlow):
        return {"t_start": flow.t_start}
    levels = {"sigma_min": flow.sigma_min, "sigma_max": flow.sigma_max, "t_start": flow.t_start}
    if isinstance(flow, EDMFlow):
        edm = {"prediction": "edm", "schedule": EDMSchedule(), "sigma_data": flow.sigma_data}
        return levels | edm
    if schedule is None:
        raise ValueError("a DiffusionFlow is written with its schedule: pass schedule=...")
    return levels | {"prediction": flow.prediction, "schedule": schedule}


def read_flow_file(path: Path, overrides: Overrides) -> TeacherFile:
    """The flow of a file; one without a description needs the caller's.

    Raises:
        ValueError: the file is damaged or nothing is said of its network, or its tensors do not
            fit; every one that differs is listed.
    """
    metadata, state = _load(path)
    entry = metadata.get(ENTRY)
    if not overrides.ema and not (entry is None and any(map(is_averaged, state))):
        raise ValueError("holds one set of weights only\n  fix: leave out ema")
    if entry is None:
        return _bare(state, overrides)
    header = _header(entry)
    spec = overrides.apply(header.network, header.image)
    network = build_to_fill(spec, header.image)
    sources = {name: Source((name,)) for name in network.state_dict()}
    # Tensors of safetensors lie in the mapped file: what is kept must not depend on it.
    own = {name: value.clone() for name, value in rename(state, sources, network).items()}
    how = overrides.starting(Parameterisation.model_validate(_part(header)))
    return TeacherFile(spec, header.image, how, own)


def _bare(state: Mapping[str, Tensor], overrides: Overrides) -> TeacherFile:
    """The network of weights without a description; it does not depend on the mapped file."""
    read = read_saved(lay_flat(state), overrides, bare=True)
    return replace(read, weights={name: own.clone() for name, own in read.weights.items()})


def _load(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"is no readable safetensors ({error})\n  fix: copy it again") from error


def _part(header: FlowHeader) -> dict[str, Any]:
    """What the header says of the network's prediction."""
    return {name: getattr(header, name) for name in Parameterisation.model_fields}


def _header(entry: str) -> FlowHeader:
    try:
        return FlowHeader.model_validate_json(entry)
    except ValidationError as error:
        reasons = "; ".join(mistake["msg"] for mistake in error.errors())
        raise ValueError(
            f"describes its flow in a way that this version does not know ({reasons})"
            "\n  fix: write it again with this version"
        ) from error
