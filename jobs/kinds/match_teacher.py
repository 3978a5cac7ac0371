"""Teaches a smaller network the teacher's velocity: stage 0 of distribution matching."""

from typing import TYPE_CHECKING

from slimctl.jobs.base.artifacts import Dataset, Flow
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, FieldError, check_each, check_flip
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.work import FORWARD, Work
from slimctl.jobs.training.part import PartTrainingSpec, restricted
from slimctl.jobs.training.spec import check_network
from slimctl.jobs.training.work import training_work
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.flows.spec import TimeDensity, UniformTime
from slimctl.models.networks.registry import AnyNetworkSpec
from slimctl.models.networks.size import network_size

if TYPE_CHECKING:
    from collections.abc import Mapping


class MatchTeacher(PartTrainingSpec):
    """A flow of any size that imitates a teacher on real images with noise.

    A student of distribution matching that is as large as the teacher starts from the teacher
    itself; a smaller one starts from this. It learns the velocity in our time whatever the teacher
    predicts.

    Source:
        Song et al., Multi-student distillation, arXiv 2410.23274: teacher score matching.
    """

    teacher: Ref[Flow]
    """The flow to imitate."""
    data: Ref[Dataset]
    """Real images; with a partition those of the part's labels."""
    network: AnyNetworkSpec
    """Architecture of the student."""
    time: TimeDensity = UniformTime()
    """Density of the flow times trained on."""
    flip: bool | None = None
    """Whether to mirror every other image; null = where the teacher declares flips valid."""

    def run(self, context: JobContext) -> Flow:
        from slimctl.jobs.objectives.match_teacher import TeacherMatching
        from slimctl.jobs.storage.weights import save_weights
        from slimctl.jobs.training.ray_train import train_on_ray

        teacher, data = context.input(self.teacher), context.input(self.data)
        labels = self.labels(context, teacher.image.classes)
        objective = TeacherMatching(
            store=context.store,
            teacher=teacher,
            data=data,
            labels=labels,
            seed=self.seed or 0,
            time=self.time,
            flip=teacher.flip_valid if self.flip is None else self.flip,
        )
        trained = train_on_ray(context, self, self.network, teacher.image, objective)
        save_weights(trained.weights, context.folder / "weights.safetensors")
        return Flow(
            source="network",
            image=teacher.image,
            network=self.network.model_dump(mode="json"),
            label_counts=restricted(teacher.label_counts, labels),
            flip_valid=teacher.flip_valid,
            parameters=trained.parameters,
            **self.part_of(context),
        )

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        known = inputs["teacher"]
        made = Facts(
            image=known.image,
            flip_valid=known.flip_valid,
            part=self.part,
            flow=Parameterisation(),
            network=self.network,
        )
        return check_each(
            made,
            lambda: self.check_part(inputs, "teacher"),
            lambda: check_flip(self.flip, known.flip_valid, self.teacher.job),
            lambda: check_network(self.network, known.image),
            lambda: self._check_data(known, inputs["data"]),
        )

    def _check_data(self, known: Facts, data: Facts) -> None:
        """Raises FieldError where the images are not those of the teacher."""
        if known.image is None or data.image is None:
            return
        unconditional = known.image.classes == 0
        given = data.image.model_copy(update={"classes": 0}) if unconditional else data.image
        if given != known.image:
            raise FieldError(
                "data",
                f"its images or classes differ from those of '{self.teacher.job}'",
                "use the data that the teacher was made for",
            )

    def work(self, inputs: "Mapping[str, Facts]") -> Work | None:
        image, samples = inputs["teacher"].image, self.steps * self.batch_size
        made = training_work(self.network, image, samples)
        teacher = inputs["teacher"].network
        if made is None or image is None:
            return None
        if teacher is None:
            return Work(made.parameters, made.macs, made.flop, ("the teacher is not counted",))
        flop = made.flop + FORWARD * network_size(teacher, image).macs * samples
        return Work(made.parameters, made.macs, flop)
