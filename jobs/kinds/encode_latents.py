"""Encodes the images of a data set as latents, on a pool of Ray actors."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from slimctl.jobs.base.artifacts import Autoencoder, Dataset, Flow, LatentSet
from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import what_and_fix
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import SPEED_ONLY, JobSpec, Placement


class EncodeLatents(JobSpec):
    """The latents of a data set's images, which flows of latents learn from.

    Of each image it is the mean of what the encoder says of it, in 16 bits. Labels are those of the
    images; nothing is mirrored, since a mirrored latent is not that of the mirrored image.
    """

    data: Ref[Dataset]
    """Images to encode."""
    autoencoder: Ref[Autoencoder | Flow]
    """What encodes them: an autoencoder, or the teacher whose latents they are to be."""
    shard_size: int = Field(default=1000, ge=1)
    """Images per file of the store."""
    batch_size: int = Field(default=16, ge=1)
    """Images encoded at once."""
    actors: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)], SPEED_ONLY] = "auto"
    """Actors that encode; auto = one per GPU, without GPUs the job does it itself."""

    def wants_gpu(self) -> bool:
        return True

    def run(self, context: JobContext) -> LatentSet:
        from slimctl.jobs.pairs.latents import LatentRecipe, encode

        data, given = context.input(self.data), context.input(self.autoencoder)
        autoencoder = given.autoencoder if isinstance(given, Flow) else given
        assert autoencoder is not None  # checked: the flow is of latents
        recipe = LatentRecipe(
            context.store,
            context.artifact_id,
            data,
            autoencoder,
            self.shard_size,
            self.batch_size,
        )
        needs = self.needs(context.cluster)
        records = encode(context, recipe, needs, self._most(context.cluster))
        return LatentSet(
            image=autoencoder.space.autoencoder.latents(data.image),
            count=data.count,
            shard_size=self.shard_size,
            label_counts=data.label_counts,
            dataset=data,
            autoencoder=autoencoder,
            shards=tuple(record.file for record in records),
        )

    def _most(self, cluster: Cluster) -> int:
        return max(1, cluster.gpus) if self.actors == "auto" else self.actors

    def placed(self, cluster: Cluster) -> Placement:
        return "own" if self._most(cluster) > 1 else "shared"

    def needs(self, cluster: Cluster) -> Needs:
        """Of each actor what a job that does it itself needs."""
        alone = super().needs(cluster)
        actors = max(1, min(self._most(cluster), cluster.room(alone.part)))
        return Needs(actors * alone.cpus, actors * alone.gpus, parts=actors)

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        data, given = inputs["data"], inputs["autoencoder"]
        job, space = self.autoencoder.job, given.latents
        if space is None:
            if given.made == Flow.__name__ and given.image is not None:
                what = f"'{job}' is a flow of pixels, without an autoencoder"
                raise FieldError("autoencoder", what, "name a flow of latents, or an autoencoder")
            return Facts(count=data.count, flip_valid=False)
        image = None
        try:
            image = data.image and space.autoencoder.latents(data.image)
        except ValueError as error:
            raise FieldError("data", *what_and_fix(error)) from error
        return Facts(
            image=image,
            count=data.count,
            flip_valid=False,
            classes_seen=data.classes_seen,
            label_counts=data.label_counts,
            latents=space,
        )
