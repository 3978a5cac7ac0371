"""What trainings on straight lines from noise to image let the user choose.

A line ends at a real image, with fresh noise at its beginning, or is a pair's. The velocity on it
is that of the line, x1 - x0, or a teacher's at its points.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from slimctl.jobs.base.artifacts import Dataset, Flow, LatentSet, PairSet
from slimctl.jobs.base.cluster import FORWARD, Work
from slimctl.jobs.base.facts import (
    Facts,
    FieldError,
    check_each,
    check_labels,
    check_space,
    model_image,
)
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.training.spec import PartTrainingSpec, training_work
from slimctl.models.networks.registry import AnyNetworkSpec, parse_network
from slimctl.models.networks.size import network_size
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape

if TYPE_CHECKING:
    from slimctl.jobs.base.context import Handles


class LineTrainingSpec(PartTrainingSpec):
    """A training on lines from noise to image."""

    data: Ref[Dataset | LatentSet] | None = None
    """Real images, or their latents, at the ends of the lines; null = `pairs`."""
    conditional: bool = False
    """Whether a model of `data` alone takes the label; a teacher or pairs say it themselves."""
    pairs: Ref[PairSet] | None = None
    """Noise and images of a flow, the two ends of the lines; null = `data`."""
    teacher: Ref[Flow] | None = None
    """Flow whose velocity is taken at the points of the lines; null = the line's own, which varies
    more."""
    start: Ref[Flow] | None = None
    """Flow whose network and weights the student starts from; null = random weights."""
    network: AnyNetworkSpec | None = None
    """Architecture of the student where there is no `start`."""
    flip: bool | None = Field(default=None)
    """Whether to mirror every other line; null = where flips are valid."""

    @model_validator(mode="after")
    def _consistent_lines(self) -> Self:
        if (self.data is None) == (self.pairs is None):
            raise ValueError("give either data (real images) or pairs, not both")
        if (self.start is None) == (self.network is None):
            raise ValueError("give either start (a flow to begin from) or network, not both")
        if self.conditional and (self.pairs is not None or self.teacher is not None):
            raise ValueError("conditional is for data alone: pairs and teachers say it themselves")
        return self

    def source(self) -> tuple[str, str]:
        """Field and job that say what images and classes the student has."""
        fields = (("teacher", self.teacher), ("pairs", self.pairs), ("data", self.data))
        return next((name, ref.job) for name, ref in fields if ref is not None)

    def learned(self, handles: "Handles") -> PairSet | Flow:
        """What the student learns from, as far as its images and labels go."""
        if self.teacher is not None:
            return handles[self.teacher]
        if self.pairs is not None:
            return handles[self.pairs]
        assert self.data is not None  # checked: one of the three is there
        data = handles[self.data]
        return Flow(
            source="data",
            image=model_image(data.image, self.conditional),
            label_counts=data.label_counts if self.conditional else (),
            flip_valid=data.flip_valid,
            autoencoder=data.autoencoder if isinstance(data, LatentSet) else None,
        )

    def first_network(self, handles: "Handles") -> NetworkSpec:
        """The network asked for, or that of the start."""
        asked = handles[self.start].network if self.start else self.plain_here(handles)
        return parse_network(asked)

    def facts_of(self, inputs: Mapping[str, Facts], made: NetworkSpec | None) -> Facts:
        """What is known of a model of these lines whose network is `made`."""
        known = inputs[self.source()[0]]
        return Facts(
            image=self._image(inputs),
            flip_valid=known.flip_valid,
            part=self.part,
            latents=known.latents,
            network=made,
        )

    def check_lines(
        self,
        inputs: Mapping[str, Facts],
        image: ImageShape | None,
        network: NetworkSpec | None,
    ) -> None:
        """Checks the inputs of a model of such images, whose network, where known, is `network`.

        Raises:
            FieldErrors: everything that does not fit.
        """
        source = self.source()
        known = inputs[source[0]]
        check_each(
            Facts(),
            lambda: self.check_source(inputs, source, network, self.flip),
            lambda: check_space(inputs, "data", *source),
            lambda: self._check_start(inputs, image),
            lambda: self._check_pairs(inputs, image),
            lambda: check_labels(known, self.conditional, source[1]),
        )

    def _image(self, inputs: Mapping[str, Facts]) -> ImageShape | None:
        field = self.source()[0]
        image = inputs[field].image
        return model_image(image, self.conditional) if image and field == "data" else image

    def _check_start(self, inputs: Mapping[str, Facts], image: ImageShape | None) -> None:
        slim = inputs.get("slim_of", Facts()).flow
        if self.slim_of is not None and slim is not None and slim.denoises:
            what = f"'{self.slim_of.job}' predicts {slim.prediction}, and this student a velocity"
            raise FieldError("slim_of", what, "make a slim match_teacher, or give a whole network")
        if self.start is None:
            return
        start, job = inputs["start"], self.start.job
        if start.closed_form:
            what = f"'{job}' is the closed form of a data set, which has no weights"
            raise FieldError("start", what, "start from a trained flow, or give a network instead")
        if start.flow is not None and start.flow.denoises:
            what = f"'{job}' predicts {start.flow.prediction}, and this student a velocity"
            raise FieldError("start", what, "start from a match_teacher of it")
        if start.image and image and start.image != image:
            what = f"its images or classes are {start.image}, those to learn {image}"
            raise FieldError("start", what, "start from a flow of the same images and classes")

    def _check_pairs(self, inputs: Mapping[str, Facts], image: ImageShape | None) -> None:
        pairs = inputs["pairs"].image if self.pairs is not None else None
        if pairs and image and pairs != image:
            what = f"its images or classes are {pairs}, those of the teacher {image}"
            raise FieldError("pairs", what, "use pairs of the teacher")

    def line_work(
        self, inputs: Mapping[str, Facts], network: NetworkSpec | None, more: int
    ) -> Work | None:
        """Work of a training with so many evaluations of the network more a sample."""
        image, samples = self._image(inputs), self.steps * self.batch_size
        made = training_work(network, image, samples)
        if made is None or image is None:
            return None
        flop = made.flop + FORWARD * more * made.macs * samples
        teacher = inputs["teacher"].network if self.teacher is not None else None
        if teacher is not None:
            flop += FORWARD * network_size(teacher, image).macs * samples
        elif self.teacher is not None:
            return Work(made.parameters, made.macs, flop, ("the teacher is not counted",))
        return Work(made.parameters, made.macs, flop)
