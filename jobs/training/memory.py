"""What a training takes of each device: a function of its spec and of what is known of its inputs.

Counted are the weights, and three times as much for gradient and moments, the average, the score
network with the same of its own, frozen networks, the data that stays on the device, and what a
step keeps on its way, traced at the micro-batch. Micro-batches are halved until the estimate fits,
as the training does where the memory does not suffice. Of networks that several workers split, a
device has its part, and for a time a block and what is not in blocks whole.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.memory import Memory
from slimctl.jobs.training.distances import ImageDistance, distance_bytes, distance_weight_bytes
from slimctl.models.networks.memory import (
    FLOAT,
    Evaluation,
    critic_bytes,
    evaluation_bytes,
    gathered_bytes,
    weight_bytes,
)
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape

if TYPE_CHECKING:
    from slimctl.jobs.training.spec import TrainingSpec

ENOUGH = 64
"""Samples at once from which a GPU is worth it; not measured, as `SMALLEST_GPU_SHARE` is not."""
PIXEL = 2
"""Bytes of a number of a pair's image."""
MOST_WORKERS = 1024
"""Of those that are looked for where one device does not hold a training."""
NOISE_BYTES = 2**30
"""Noise of pairs up to this size is kept on the device."""


@dataclass(frozen=True)
class Frozen:
    """A network that answers without a gradient."""

    network: NetworkSpec
    batch: int
    """Samples of all workers that it answers for at once."""
    beside: bool
    """Whether what the student keeps for its gradient is there meanwhile."""


@dataclass(frozen=True)
class Load:
    """What a kind of training has on a device.

    Args:
        network: of the student.
        image: what it makes.
        batch: samples of all workers that the student is evaluated on at once.
        frozen: networks that only answer.
        score_network: trained beside the student.
        score_batch: samples of all workers that this is evaluated on at once.
        through: networks whose answers together pass a gradient on to the student's images.
        through_batch: samples of all workers that they answer for.
        distance: between images, of all samples in `batch`.
        data: bytes of data that stay on the device.
        critic: of images, trained beside the student.
        critic_batch: images, real ones too, that it judges at once.
        copies: further copies of the student's weights, to score them.
    """

    network: NetworkSpec
    image: ImageShape
    batch: int
    frozen: tuple[Frozen, ...] = ()
    score_network: NetworkSpec | None = None
    score_batch: int = 0
    through: tuple[NetworkSpec, ...] = ()
    through_batch: int = 0
    distance: ImageDistance | None = None
    data: int = 0
    copies: int = 0
    critic: NetworkSpec | None = None
    critic_batch: int = 0


def training_memory(
    spec: "TrainingSpec", load: Load, cluster: Cluster, limit: int | None
) -> Memory:
    """Memory of a device of a training, at the largest micro-batch that fits.

    Args:
        spec: of the training.
        load: what its kind has on a device.
        cluster: decides the number of workers, and whether they are GPUs.
        limit: bytes of a device; None = not known, so that nothing is cut.
    """
    workers, on_gpu = spec.layout(cluster)[0], cluster.gpus > 0
    again, splits = spec.checkpoint_activations is True, spec.shard == "full" and workers > 1
    device = _Device(spec, load, workers, on_gpu, again, splits)
    found = _sparing(device, limit)
    if limit is None or found.fits(limit):
        return found
    if spec.shard == "auto" and workers > 1:
        found = _sparing(replace(device, splits=True), limit)
    enough = None if found.fits(limit) else _workers_that_fit(device, limit)
    if enough is None:
        return found
    remedy = "shard: full" if enough == workers else f"shard: full and workers: {enough}"
    return replace(found, remedies=(*found.remedies, remedy))


def _sparing(device: "_Device", limit: int | None) -> Memory:
    """The memory at the largest micro-batch that fits, blocks computed again where that helps."""
    found = _fitting(device, limit)
    if device.recomputes or limit is None or _is_enough(found, limit):
        return found
    other = _fitting(replace(device, recomputes=True), limit)
    better = other.samples > found.samples or (other.fits(limit) and not found.fits(limit))
    if not better:
        return found
    if device.spec.checkpoint_activations == "auto":
        return other
    return replace(found, remedies=("checkpoint_activations: true",))


def _workers_that_fit(device: "_Device", limit: int) -> int | None:
    """The fewest workers that fit where they split networks: as many as there are, or 2, 4..."""
    sizes = device.spec.batches().values()
    more = (1 << power for power in range(1, MOST_WORKERS.bit_length()))
    for workers in (device.workers, *(n for n in more if n > device.workers)):
        each = replace(device, workers=workers, splits=True)
        if workers == 1 or any(size % workers for size in sizes) or each.lasting > limit:
            continue
        if _sparing(each, limit).fits(limit):
            return workers
    return None


def _is_enough(found: Memory, limit: int) -> bool:
    """Whether as many samples fit as a GPU needs to be worth it."""
    return found.fits(limit) and found.samples >= min(ENOUGH, found.share)


def _fitting(device: "_Device", limit: int | None) -> Memory:
    """The memory at the largest micro-batch that fits, else at the smallest there is."""
    most, asked = device.share, device.spec.micro_batch
    found = device.at(most if asked == "auto" else min(most, asked))
    if limit is None or found.fits(limit):
        return found
    for samples in _halvings(found.samples, found, limit):
        found = device.at(samples)
        if found.fits(limit):
            break
    return found


def _halvings(samples: int, found: Memory, limit: int) -> list[int]:
    """Smaller micro-batches to look at, largest first: none that plainly do not fit."""
    each = (found.total - found.lasting) / samples
    smaller = [max(1, samples >> times) for times in range(1, samples.bit_length())]
    hopeful = [n for n in smaller if found.lasting + 0.7 * each * n <= limit]
    return hopeful or smaller[-1:]


@dataclass(frozen=True)
class _Device:
    """One device of a training."""

    spec: "TrainingSpec"
    load: Load
    workers: int
    on_gpu: bool
    recomputes: bool
    """Whether blocks are computed again on the way back."""
    splits: bool
    """Whether the workers split the networks."""

    @property
    def share(self) -> int:
        """Samples of batch_size."""
        return self.spec.batch_size // self.workers

    def at(self, samples: int) -> Memory:
        """Its memory at a micro-batch of so many samples."""
        parts = self._lasting()
        fullest = self._fullest(-(-self.share // samples))
        parts["activations"] = max(0, fullest - parts["gradients"])
        return Memory(parts, samples, self.share, self.lasting, self.recomputes, self.splits)

    @property
    def lasting(self) -> int:
        """Bytes that are there whatever the samples are."""
        return sum(self._lasting().values())

    @property
    def _own(self) -> int:
        """Bytes of the student's weights here."""
        return self._held(self.load.network)

    @property
    def _score(self) -> int:
        """Bytes of the score network's weights here."""
        network = self.load.score_network
        return 0 if network is None else self._held(network)

    def _held(self, network: NetworkSpec) -> int:
        """Bytes of a network's weights here."""
        size = weight_bytes(network, self.load.image)
        return -(-size // self.workers) if self.splits else size

    @property
    def _critic(self) -> int:
        """Bytes of the weights of a critic of images, which is never split."""
        network = self.load.critic
        return 0 if network is None else weight_bytes(network, self.load.image)

    def _lasting(self) -> dict[str, int]:
        """What is there throughout, with all gradients."""
        load = self.load
        frozen = dict.fromkeys(each.network for each in load.frozen)
        trained = self._own + self._score
        return {
            "weights": self._own,
            "gradients": trained,
            "moments": 2 * self._own,
            "average": (1 + load.copies + len(self.spec.ema_profiles or ())) * self._own,
            "exchange": self._exchanged(),
            "score network": 3 * self._score,
            **({"critic": 4 * self._critic} if load.critic else {}),
            "frozen networks": sum(map(self._held, frozen)) + distance_weight_bytes(load.distance),
            "data": load.data,
        }

    def _exchanged(self) -> int:
        """The buckets of gradients of DDP; or what is whole for a time of networks in parts."""
        load = self.load
        if self.workers == 1:
            return 0
        if not self.splits:
            return self._own + self._score
        networks = [load.network, *(each.network for each in load.frozen), *load.through]
        networks += [load.score_network] if load.score_network is not None else []
        return max(gathered_bytes(each, load.image) for each in networks)

    def _fullest(self, pieces: int) -> int:
        """Bytes of activations and gradients at the fullest moment of a step."""
        load = self.load
        student, keeps = self._evaluation(load.network, load.batch, pieces, gradient=True)
        distance = distance_bytes(load.distance, load.image, self._rows(load.batch, pieces))
        moments = [student, keeps + distance]
        for each in load.frozen:
            answer, _ = self._evaluation(each.network, each.batch, pieces, gradient=False)
            moments.append(answer + (keeps + distance if each.beside else 0))
        passing = [
            self._evaluation(each, load.through_batch, pieces, gradient=True)[1]
            for each in load.through
        ]
        moments.append(keeps + sum(passing))
        if load.critic is not None:
            rows = self._rows(load.critic_batch, pieces)
            moments.append(critic_bytes(load.critic, load.image, rows))
        if load.score_network is None:
            return max(moments)
        trained, _ = self._evaluation(load.score_network, load.score_batch, pieces, gradient=True)
        return max(self._score + max(moments), self._own + trained)

    def _rows(self, batch: int, pieces: int) -> int:
        return max(1, math.ceil(batch / self.workers / pieces))

    def _evaluation(
        self, network: NetworkSpec, batch: int, pieces: int, *, gradient: bool
    ) -> tuple[int, int]:
        low = self.on_gpu and self.spec.precision in ("auto", "bfloat16")
        how = Evaluation(
            batch=self._rows(batch, pieces),
            gradient=gradient,
            bfloat16=low and gradient,
            recompute=self.recomputes and gradient,
        )
        most, keeps = evaluation_bytes(network, self.load.image, how)
        if gradient:  # of networks in parts only a part of it stays
            most = max(keeps, most - weight_bytes(network, self.load.image) + self._held(network))
        return most, keeps


def image_bytes(image: ImageShape, count: int | None) -> int:
    """Bytes of a data set's images, which all stay on the device; 0 where it is not known."""
    return (count or 0) * image.channels * image.size**2


def pair_bytes(image: ImageShape, count: int | None) -> int:
    """Bytes of pairs on the device where they fit: images in 16 bits, noise that is kept."""
    numbers = image_bytes(image, count)
    noise = FLOAT * numbers
    return PIXEL * numbers + (noise if noise <= NOISE_BYTES else 0)
