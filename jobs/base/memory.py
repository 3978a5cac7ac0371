"""What a job takes of the memory of each device that it uses."""

from collections.abc import Mapping
from dataclasses import dataclass

from slimctl.models.networks.memory import Evaluation, evaluation_bytes, weight_bytes
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape

GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the fullest moment of a job.

    Args:
        parts: what takes them -> bytes; the moment is the same for all.
        samples: computed at once on the device, of the batch that can be cut.
        share: of that batch on the device; more than `samples` where it is cut to fit.
        lasting: bytes that are there whatever the samples are.
        recomputes: whether blocks are computed again on the way back.
        sharded: whether several workers split the networks.
        remedies: what would make a job fit that does not.
    """

    parts: Mapping[str, int]
    samples: int
    share: int
    lasting: int
    recomputes: bool = False
    sharded: bool = False
    remedies: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.parts.values())

    def fits(self, limit: int | None) -> bool:
        """Whether a device of so many bytes holds it; None = any does."""
        return limit is None or self.total <= limit


def in_gib(size: float) -> str:
    """`12.3 GiB`, or MiB below one."""
    if size < GIB:
        return f"{size / 2**20:,.0f} MiB"
    return f"{size / GIB:,.1f} GiB"


def sampling_memory(
    network: NetworkSpec | None,
    image: ImageShape | None,
    batch: int,
    *,
    weaker: NetworkSpec | None = None,
    bfloat16: bool = False,
) -> Memory | None:
    """Memory of a device that samples a network; None where it or its images are not known.

    A weaker network, by which it is guided, is evaluated after it.
    """
    if network is None or image is None:
        return None
    how = Evaluation(batch=batch, gradient=False, bfloat16=bfloat16)
    networks = [network] if weaker is None else [network, weaker]
    weights = sum(weight_bytes(each, image) for each in networks)
    fullest = max(evaluation_bytes(each, image, how)[0] for each in networks)
    parts = {"weights": weights, "activations": fullest}
    return Memory(parts, batch, batch, weights)
