"""The work of a training."""

from slimctl.jobs.base.work import TRAINING, Work
from slimctl.models.networks.size import network_size
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape


def training_work(
    network: NetworkSpec | None, image: ImageShape | None, samples: float
) -> Work | None:
    """Work of training a network on so many samples; None where it or its images are not known.

    Args:
        network: that is trained.
        image: its images.
        samples: of all steps together.
    """
    if network is None or image is None:
        return None
    size = network_size(network, image)
    return Work(size.parameters, size.macs, TRAINING * size.macs * samples)
