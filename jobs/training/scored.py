"""Training whose student is scored on few samples on the way, which changes nothing of the result.

The loss of a distillation falls long after the images have stopped getting better, or while they
get worse; a curve of scores shows it, and a search can stop the trainings that fall behind.
"""

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from slimctl.jobs.base.artifacts import Dataset, FeatureNet
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import SPEED_ONLY
from slimctl.jobs.training.part import PartTrainingSpec
from slimctl.models.spec import ImageShape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from slimctl.jobs.training.judge import Watch


class ScoredTrainingSpec(PartTrainingSpec):
    """A training of a student that can be scored by its one-step samples."""

    data: Annotated[Ref[Dataset] | None, SPEED_ONLY] = None
    """Real images that one-step samples are compared with in training; null = no scores. They only
    watch: the result is the same without them."""
    features: Annotated[Ref[FeatureNet] | None, SPEED_ONLY] = None
    """Feature network of the score, a kernel distance (KID); null = sliced Wasserstein of
    pixels."""
    score_every: Annotated[int, Field(ge=1), SPEED_ONLY] = 100
    """Steps between two scores, where there is `data`."""
    score_samples: Annotated[int, Field(ge=2), SPEED_ONLY] = 500
    """Samples of a score."""

    @model_validator(mode="after")
    def _scored_on_data(self) -> Self:
        if self.features is not None and self.data is None:
            raise ValueError(
                "features are for the score, which compares with real images: name them as data, "
                "or leave features out"
            )
        return self

    def watch(
        self,
        context: JobContext,
        image: ImageShape,
        label_counts: tuple[int, ...],
        labels: tuple[int, ...] | None,
    ) -> "Watch | None":
        """What scores the student; None if nothing does.

        Args:
            context: of the job.
            image: shape of the student's images.
            label_counts: label marginal of the student; () if unconditional.
            labels: labels that it serves; None = all.
        """
        from slimctl.jobs.training.judge import Judge, Watch  # noqa: PLC0415

        if self.data is None:
            return None
        data = context.input(self.data)
        features = context.input(self.features) if self.features else None
        judge = Judge(
            context.store, data, features, labels, label_counts, image, 0.0,
            self.score_samples, self.seed or 0, "kernel",
        )  # fmt: skip
        return Watch(judge, self.score_every)


def check_images(
    inputs: "Mapping[str, Facts]", source: str, job: str, fields: tuple[str, ...]
) -> None:
    """Checks that models and pairs, where they are known, are of the images of what is learned.

    Args:
        inputs: facts of the inputs, by field name.
        source: field that gives the student's images.
        job: name of that field's job.
        fields: whose images must be the same, classes included.

    Raises:
        FieldError: those of a field differ.
    """
    wanted = inputs[source].image
    for field in fields:
        image = inputs[field].image if field in inputs else None
        if image and wanted and image != wanted:
            raise FieldError(
                field,
                f"its images or classes differ from those of '{job}'",
                "use models and pairs of the same image shape and classes",
            )


def check_scoring(inputs: "Mapping[str, Facts]", source: str, job: str) -> None:
    """Checks `data` and `features`, where they are known, against what the student learns from.

    Args:
        inputs: facts of the inputs, by field name.
        source: field that gives the student's images.
        job: name of that field's job.

    Raises:
        FieldError: they are of other images or classes.
    """
    wanted = inputs[source].image
    for field in ("data", "features"):
        image = inputs[field].image if field in inputs else None
        if image is None or wanted is None:
            continue
        unlike = (image.size, image.channels) != (wanted.size, wanted.channels)
        if unlike or (field == "data" and wanted.classes not in (0, image.classes)):
            raise FieldError(
                field,
                f"its images or classes differ from those of '{job}'",
                "use the data that the teacher was made for, and features of it",
            )
