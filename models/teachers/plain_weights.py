"""Reads the weights of a network that the caller describes: a state dictionary under its own names.

So a network of another package (entry-point group `slimctl.networks`) becomes a teacher.
"""

from collections.abc import Mapping, Sequence

from models.flows.parameterisation import Parameterisation
from models.networks.published_weights import Source, named_averages, rename
from models.shapes import Tensor
from models.spec import ImageShape
from models.teachers.architecture import Overrides
from models.teachers.teacher_file import TeacherFile, build_to_fill


def read_plain_weights(
    state: Mapping[str, Tensor], averages: Sequence[Tensor] | None, overrides: Overrides
) -> TeacherFile:
    """The network that the caller describes, with the weights of a file.

    Args:
        state: name -> tensor.
        averages: averaged weights in the order of the state; None = the state is what is wanted.
        overrides: the network, its images, and what it predicts.

    Raises:
        ValueError: the caller does not say enough, or the tensors do not fit; all are listed.
    """
    spec = overrides.spec
    if spec is None or overrides.size is None or overrides.image_channels is None:
        first = ", ".join(list(state)[:3]) or "none"
        raise ValueError(
            f"does not say what network its tensors are of; the first are {first}"
            "\n  fix: give network (all of it, with its kind), size and image_channels, or a file "
            "of save_flow, SlimFlow, RectifiedFlow or EDM"
        )
    image = ImageShape(
        channels=overrides.image_channels, size=overrides.size, classes=overrides.classes or 0
    )
    network = build_to_fill(spec, image)
    sources = {name: Source((name,)) for name in network.state_dict()}
    if averages is not None:
        state = named_averages(state, averages)
    # Tensors of a mapped file lie in it: what is kept must not depend on it.
    weights = {name: value.clone() for name, value in rename(state, sources, network).items()}
    given = {"prediction": overrides.prediction, "schedule": overrides.schedule}
    known = {name: value for name, value in given.items() if value is not None}
    return TeacherFile(spec, image, overrides.starting(Parameterisation(**known)), weights)
