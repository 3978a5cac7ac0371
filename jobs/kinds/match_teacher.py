"""Teaches a smaller network the teacher's velocity: stage 0 of distribution matching."""

from typing import TYPE_CHECKING

from slimctl.jobs.base.artifacts import Dataset, Flow, LatentSet
from slimctl.jobs.base.cluster import FORWARD, Work
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, check_each, check_space
from slimctl.jobs.base.guidance import GuidedJobSpec
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.training.memory import Frozen, Load, image_bytes
from slimctl.jobs.training.spec import PartTrainingSpec, training_work
from slimctl.models.flows.spec import TimeDensity, UniformTime
from slimctl.models.networks.registry import AnyNetworkSpec
from slimctl.models.networks.size import network_size

if TYPE_CHECKING:
    from collections.abc import Mapping


class MatchTeacher(GuidedJobSpec, PartTrainingSpec):
    """A flow of any size that imitates a teacher on real images with noise.

    A student of distribution matching that is as large as the teacher starts from the teacher
    itself; a smaller one starts from this. It learns the velocity in our time whatever the teacher
    predicts; a slimmer copy of a teacher predicts what that does.

    Source:
        Song et al., Multi-student distillation, arXiv 2410.23274: teacher score matching.
    """

    teacher: Ref[Flow]
    """The flow to imitate."""
    data: Ref[Dataset | LatentSet]
    """Real images, or their latents for a teacher of latents; with a partition those of the part's
    labels."""
    network: AnyNetworkSpec
    """Architecture of the student."""
    time: TimeDensity = UniformTime()
    """Density of the flow times trained on."""
    flip: bool | None = None
    """Whether to mirror every other image; null = where the teacher declares flips valid."""

    def run(self, context: JobContext) -> Flow:
        from slimctl.jobs.objectives.match_teacher import TeacherMatching
        from slimctl.jobs.training.ray_train import train_model

        handles = context.handles
        student = self.flow_of(handles, self.prompted(handles, context.input(self.teacher)))
        objective, first = TeacherMatching(self, handles), self.first_weights(handles)
        return train_model(context, self, objective, student, first)[0]

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        known = inputs["teacher"]
        made = Facts(
            image=known.image,
            flip_valid=known.flip_valid,
            latents=known.latents,
            part=self.part,
            flow=self.predicts(inputs),
            network=self.plain(inputs),
            text_width=(inputs["prompts"] if self.prompts else known).text_width,
        )
        source = ("teacher", self.teacher.job)
        return check_each(
            made,
            lambda: self.check_source(inputs, source, made.network, self.flip),
            lambda: check_space(inputs, "data", *source),
            lambda: self.check_guidance(inputs, *source),
        )

    def load(self, inputs: "Mapping[str, Facts]") -> Load | None:
        image, teacher = inputs["teacher"].image, inputs["teacher"].network
        network = self.plain(inputs)
        if image is None or network is None:
            return None
        frozen = (Frozen(teacher, self.batch_size, beside=False),) if teacher else ()
        data = image_bytes(image, inputs["data"].count)
        return Load(network, image, self.batch_size, frozen, data=data)

    def work(self, inputs: "Mapping[str, Facts]") -> Work | None:
        image, samples = inputs["teacher"].image, self.steps * self.batch_size
        made = training_work(self.plain(inputs), image, samples)
        teacher = inputs["teacher"].network
        if made is None or image is None:
            return None
        if teacher is None:
            return Work(made.parameters, made.macs, made.flop, ("the teacher is not counted",))
        flop = made.flop + FORWARD * network_size(teacher, image).macs * self.costs * samples
        return Work(made.parameters, made.macs, flop)
