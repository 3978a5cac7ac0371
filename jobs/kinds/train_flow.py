"""Trains a rectified flow on images: the teacher (METHOD: 1-rectified flow)."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from slimctl.jobs.base.artifacts import Dataset, EmbeddedPrompts, Flow, LatentSet
from slimctl.jobs.base.cluster import Work
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import (
    Facts,
    FieldError,
    check_each,
    check_flip,
    check_labels,
    model_image,
    without_labels,
)
from slimctl.jobs.base.guidance import check_width
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.training.memory import Load, image_bytes
from slimctl.jobs.training.spec import TrainingSpec, check_network, training_work
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.flows.spec import TimeDensity, UniformTime
from slimctl.models.networks.registry import AnyNetworkSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ADDED, ImageShape

if TYPE_CHECKING:
    from collections.abc import Mapping


class TrainFlow(TrainingSpec):
    """A flow from noise to the images of a data set, by flow matching.

    Source:
        Liu et al., arXiv 2209.03003, eq. 1, with the same direction of time.
    """

    data: Ref[Dataset | LatentSet]
    """Images to learn, or their latents."""
    network: AnyNetworkSpec
    """Architecture of the velocity network."""
    conditional: bool = False
    """Whether the network takes the label."""
    time: TimeDensity = UniformTime()
    """Density of the flow times trained on."""
    flip: bool | None = None
    """Whether to mirror every other image; null = where the data set declares flips valid."""
    prompts: Annotated[Ref[EmbeddedPrompts] | None, ADDED] = None
    """Prompts with labels: the flow is conditional on texts, and beside an image stands one of the
    prompts that ask for its class, drawn at every step; null = it is not."""
    label_dropout: Annotated[float, Field(ge=0, lt=1), ADDED] = 0.0
    """Share of the labels that are replaced by the null class, one more than the data has, or by
    no text, so that the flow can be guided; papers take 0.1. 0 = there is no null class."""

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
            null_class=self._null_class(data.image),
            prompts=context.input(self.prompts) if self.prompts else None,
            autoencoder=data.autoencoder if isinstance(data, LatentSet) else None,
        )
        return train_model(context, self, FlowMatching(self, context.handles), made)[0]

    def _null_class(self, image: ImageShape | None) -> int | None:
        """The label that stands for none; None = it knows none."""
        if not self.label_dropout:
            return None
        return -1 if self.prompts else image.classes if image else None

    def _network(self) -> NetworkSpec:
        """The network, with a null class where labels are dropped."""
        if not self.label_dropout or self.prompts:
            return self.network
        return self.network.model_copy(update={"null_class": True})

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        known = inputs["data"]
        image = known.image and model_image(known.image, self.conditional)
        null_class = self._null_class(image)
        made = Facts(
            image=image,
            flip_valid=known.flip_valid,
            latents=known.latents,
            flow=Parameterisation(null_class=null_class),
            network=self._network(),
            text_width=inputs["prompts"].text_width if self.prompts else None,
        )
        return check_each(
            made,
            lambda: self._check_prompts(inputs),
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

    def _check_prompts(self, inputs: "Mapping[str, Facts]") -> None:
        if self.prompts is None:
            if self.network.takes_text:
                what = f"a {self.network.kind} of this config takes texts, and there are none"
                raise FieldError("network", what, "add prompts, or choose another network")
            return
        job, asked, data = self.prompts.job, inputs["prompts"], inputs["data"]
        if self.conditional:
            what = "a flow of prompts takes no labels beside them"
            raise FieldError("conditional", what, "leave conditional out")
        if not self.network.takes_text:
            what = f"a network of kind {self.network.kind} takes no texts"
            fix = "use kind: diffusers_model with model: UNet2DConditionModel"
            raise FieldError("network", what, fix)
        check_width(self.network, asked.text_width, job)
        if data.image is not None and data.image.classes == 0:
            what, fix = without_labels(data, self.data.job)
            raise FieldError("data", f"{what} to find prompts by", fix or "use a labelled data set")
        classes = None if data.image is None else data.image.classes
        if None not in (asked.prompt_classes, classes) and asked.prompt_classes != classes:
            what = f"'{job}' has prompts of {asked.prompt_classes} classes, but "
            what += f"'{self.data.job}' has {classes}"
            raise FieldError("prompts", what, "give prompts that ask for each class, by label")

    def _check_dropout(self) -> None:
        if not self.label_dropout or self.prompts:
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
