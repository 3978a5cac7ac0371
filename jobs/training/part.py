"""Training for a part of the labels: the fields of the spec, and what they filter.

A student of a part keeps all classes in its network, so that it takes the pairs and the teacher of
the whole; that it serves a part shows in its label counts, which are 0 for all other labels.
"""

from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from slimctl.jobs.base.artifacts import Partition
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.training.spec import TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class PartTrainingSpec(TrainingSpec):
    """A training that can be restricted to a part of the labels."""

    partition: Ref[Partition] | None = None
    """Split of the labels of which the student serves a part; null = it serves all labels."""
    part: int | None = Field(default=None, ge=0)
    """Part that it serves, from 0."""

    @model_validator(mode="after")
    def _part_of_a_partition(self) -> Self:
        if (self.partition is None) != (self.part is None):
            raise ValueError(
                "partition and part go together: give both, or neither for a student of all labels"
            )
        return self

    def check_part(self, inputs: "Mapping[str, Facts]", source: str) -> None:
        """Checks what is known of the partition against the part and the model learned from.

        Args:
            inputs: facts of the inputs, by field name.
            source: field of the teacher, pairs or data that the labels come from.

        Raises:
            FieldError: there is no such part, or the source has no labels.
        """
        if self.partition is None or self.part is None:
            return
        image = inputs[source].image
        if image is not None and image.classes == 0:
            raise FieldError(
                source,
                f"'{getattr(self, source).job}' is unconditional, so it has no labels to split",
                "set conditional: true at the flow that it comes from, or leave partition out",
            )
        parts = inputs["partition"].parts
        if parts is not None and self.part >= parts:
            raise FieldError(
                "part",
                f"part is {self.part}, but '{self.partition.job}' has {parts} parts",
                f"use 0..{parts - 1}",
            )

    def labels(self, context: JobContext, classes: int) -> tuple[int, ...] | None:
        """Labels that the student serves; None = all.

        Args:
            context: of the job.
            classes: number of classes of the model learned from.

        Raises:
            UserError: the partition splits other conditions.
        """
        if self.partition is None or self.part is None:
            return None
        partition = context.input(self.partition)
        if partition.conditions != classes:
            raise UserError(
                f"job '{context.job}'",
                f"'{self.partition.job}' splits {partition.conditions} conditions, but there are "
                f"{classes} classes",
                "make the partition from the same labels",
            )
        return partition.subsets[self.part]

    def part_of(self, context: JobContext) -> dict[str, Any]:
        """What the handle of the student says of its part."""
        if self.partition is None:
            return {}
        return {"part": self.part, "partition": context.input(self.partition).id}


def restricted(counts: "Sequence[int]", labels: tuple[int, ...] | None) -> tuple[int, ...]:
    """Label counts that are 0 for all but the given labels; None leaves them as they are."""
    if labels is None:
        return tuple(counts)
    return tuple(count if label in labels else 0 for label, count in enumerate(counts))
