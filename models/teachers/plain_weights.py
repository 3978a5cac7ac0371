"""Reads the weights of a network that the caller describes: a state dictionary under its own names.

So a network of another package (entry-point group `slimctl.networks`) becomes a teacher.
"""

from collections.abc import Collection

from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.networks.published_weights import Source, named_averages, rename
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape
from slimctl.models.teachers.architecture import Overrides
from slimctl.models.teachers.saved_weights import (
    Saved,
    Weights,
    find_weights,
    of_names,
    usual_prefix,
)
from slimctl.models.teachers.teacher_file import TeacherFile, build_to_fill


def read_plain_weights(saved: Saved, overrides: Overrides) -> TeacherFile:
    """The network that the caller describes, with the weights of a file.

    Args:
        saved: all tensors of the file.
        overrides: the network, its images, and what it predicts.

    Raises:
        ValueError: the caller does not say enough, or the tensors do not fit; all are listed.
    """
    spec = overrides.spec
    if spec is None or overrides.size is None or overrides.image_channels is None:
        prefix = usual_prefix(saved.tensors)
        first = ", ".join(name.removeprefix(prefix) for name in list(saved.tensors)[:3])
        raise ValueError(
            f"does not say what network its tensors are of; the first are {first}"
            "\n  fix: give network (all of it, with its kind), size and image_channels, or a file "
            "of save_flow, SlimFlow, RectifiedFlow or EDM"
        )
    image = ImageShape(
        channels=overrides.image_channels, size=overrides.size, classes=overrides.classes or 0
    )
    network = build_to_fill(spec, image)
    weights = find_weights(saved, of_names(network.state_dict()))
    sources = {name: Source((name,)) for name in network.state_dict()}
    state = _chosen(weights, overrides, {name for name, _ in network.named_buffers()})
    given = {"prediction": overrides.prediction, "schedule": overrides.schedule}
    known = {name: value for name, value in given.items() if value is not None}
    how = overrides.starting(Parameterisation(**known))
    return TeacherFile(spec, image, how, rename(state, sources, network))


def _chosen(weights: Weights, overrides: Overrides, buffers: Collection[str]) -> dict[str, Tensor]:
    """The averages, where there are some and they are wanted; buffers have none of their own."""
    if not overrides.ema:
        if not weights.plain:
            raise ValueError("holds averaged weights only\n  fix: leave out ema")
        return dict(weights.plain)
    if not weights.listed:
        kept = {name: value for name, value in weights.plain.items() if name in buffers}
        return {**kept, **weights.averages} if weights.averages else dict(weights.plain)
    averaged = dict(weights.plain)
    if len(weights.listed) < len(averaged):
        averaged = {name: own for name, own in averaged.items() if name not in buffers}
    return {**weights.plain, **named_averages(averaged, weights.listed)}
