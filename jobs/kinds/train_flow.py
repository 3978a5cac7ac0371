"""Trains a rectified flow on images: the teacher (METHOD: 1-rectified flow)."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from slimctl.jobs.base.artifacts import Dataset, Flow
from slimctl.jobs.base.cluster import Work
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import (
    Facts,
    FieldError,
    check_each,
    check_flip,
    check_labels,
    model_image,
)
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.training.memory import Load, image_bytes
from slimctl.jobs.training.spec import TrainingSpec, check_network, training_work
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.flows.spec import TimeDensity, UniformTime
from slimctl.models.networks.registry import AnyNetworkSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ADDED

if TYPE_CHECKING:
    from collections.abc import Mapping


class TrainFlow(TrainingSpec):
    """A flow from noise to the images of a data set, by flow matching.

    Source:
        Liu et al., arXiv 2209.03003, eq. 1, with the same direction of time.
    """

    data: Ref[Dataset]
    """Images to learn."""
    network: AnyNetworkSpec
    """Architecture of the velocity network."""
    conditional: bool = False
    """Whether the network takes the label."""
    time: TimeDensity = UniformTime()
    """Density of the flow times trained on."""
    flip: bool | None = None
    """Whether to mirror every other image; null = where the data set declares flips valid."""
    label_dropout: Annotated[float, Field(ge=0, lt=1), ADDED] = 0.0
    """Share of the labels that are replaced by the null class, one more than the data has, so that
    the flow can be guided; papers take 0.1. 0 = there is no null class."""

    def run(self, context: JobContext) -> Flow:
        from slimctl.jobs.objectives.train_flow import FlowMatching
        from slimctl.jobs.training.ray_train import train_model

        data = context.input(self.data)
        made = Flow(
            source="network",
            image=model_image(data.image, self.conditional),
            network=self._network().model_dump(mode="json"),
            label_counts=data.label_counts if self.conditional else (),
            flip_valid=data.flip_valid,
            null_class=data.image.classes if self.label_dropout else None,
        )
        return train_model(context, self, FlowMatching(self, context.handles), made)[0]

    def _network(self) -> NetworkSpec:
        """The network, with a null class where labels are dropped."""
        if not self.label_dropout:
            return self.network
        return self.network.model_copy(update={"null_class": True})

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        known = inputs["data"]
        image = known.image and model_image(known.image, self.conditional)
        null_class = image.classes if image and self.label_dropout else None
        made = Facts(
            image=image,
            flip_valid=known.flip_valid,
            flow=Parameterisation(null_class=null_class),
            network=self._network(),
        )
        return check_each(
            made,
            lambda: check_flip(self.flip, known.flip_valid, self.data.job),
            lambda: check_labels(known, self.conditional, self.data.job),
            lambda: check_network(self.network, image),
            self._check_dropout,
        )

    def load(self, inputs: "Mapping[str, Facts]") -> Load | None:
        known = inputs["data"]
        image = known.image and model_image(known.image, self.conditional)
        if image is None:
            return None
        return Load(self.network, image, self.batch_size, data=image_bytes(image, known.count))

    def _check_dropout(self) -> None:
        if not self.label_dropout:
            return
        if not self.conditional:
            raise FieldError(
                "label_dropout",
                "there are no labels to drop: the flow is not conditional",
                "set conditional: true, or leave label_dropout out",
            )
        if "null_class" not in type(self.network).model_fields:
            raise FieldError(
                "label_dropout",
                f"a network of kind {self.network.kind} has no null class",
                "use a song_unet, adm or mlp, or leave label_dropout out",
            )

    def work(self, inputs: "Mapping[str, Facts]") -> Work | None:
        known = inputs["data"].image
        image = known and model_image(known, self.conditional)
        return training_work(self.network, image, self.steps * self.batch_size)
