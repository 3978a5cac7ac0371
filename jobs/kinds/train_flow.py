"""Trains a rectified flow on images: the teacher (METHOD: 1-rectified flow)."""

from typing import TYPE_CHECKING

from slimctl.jobs.base.artifacts import Dataset, Flow
from slimctl.jobs.base.cluster import Work
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, check_each, check_flip, check_labels, model_image
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.training.memory import Load, image_bytes
from slimctl.jobs.training.spec import TrainingSpec, check_network, training_work
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.flows.spec import TimeDensity, UniformTime
from slimctl.models.networks.registry import AnyNetworkSpec

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

    def run(self, context: JobContext) -> Flow:
        from slimctl.jobs.objectives.train_flow import FlowMatching
        from slimctl.jobs.training.ray_train import train_model

        data = context.input(self.data)
        made = Flow(
            source="network",
            image=model_image(data.image, self.conditional),
            network=self.network.model_dump(mode="json"),
            label_counts=data.label_counts if self.conditional else (),
            flip_valid=data.flip_valid,
        )
        return train_model(context, self, FlowMatching(self, context.handles), made)[0]

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        known = inputs["data"]
        image = known.image and model_image(known.image, self.conditional)
        made = Facts(
            image=image, flip_valid=known.flip_valid, flow=Parameterisation(), network=self.network
        )
        return check_each(
            made,
            lambda: check_flip(self.flip, known.flip_valid, self.data.job),
            lambda: check_labels(known, self.conditional, self.data.job),
            lambda: check_network(self.network, image),
        )

    def load(self, inputs: "Mapping[str, Facts]") -> Load | None:
        known = inputs["data"]
        image = known.image and model_image(known.image, self.conditional)
        if image is None:
            return None
        return Load(self.network, image, self.batch_size, data=image_bytes(image, known.count))

    def work(self, inputs: "Mapping[str, Facts]") -> Work | None:
        known = inputs["data"].image
        image = known and model_image(known, self.conditional)
        return training_work(self.network, image, self.steps * self.batch_size)
