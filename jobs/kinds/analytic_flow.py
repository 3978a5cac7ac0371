"""The closed-form flow of a data set: a teacher that needs no training, and an oracle."""

from typing import TYPE_CHECKING

from pydantic import Field

from slimctl.jobs.base.artifacts import Dataset, Flow
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, check_each, check_labels, model_image
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import JobSpec
from slimctl.models.flows.parameterisation import Parameterisation

if TYPE_CHECKING:
    from collections.abc import Mapping


class AnalyticFlow(JobSpec):
    """The exact velocity of the data set, each image blurred by a Gaussian of `bandwidth`.

    With bandwidth 0 its samples are the images themselves.
    """

    data: Ref[Dataset]
    """Images of the closed form."""
    bandwidth: float = Field(default=0.0, ge=0, le=1)
    """Standard deviation around each image, in units of [-1, 1] pixels."""
    conditional: bool = False
    """Whether samples follow a label."""

    def run(self, context: JobContext) -> Flow:
        data = context.input(self.data)
        return Flow(
            source="data",
            image=model_image(data.image, self.conditional),
            label_counts=data.label_counts if self.conditional else (),
            flip_valid=data.flip_valid,
            dataset=data,
            bandwidth=self.bandwidth,
        )

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        known = inputs["data"]
        made = Facts(
            image=known.image and model_image(known.image, self.conditional),
            flip_valid=known.flip_valid,
            flow=Parameterisation(),
            closed_form=True,
        )
        return check_each(made, lambda: check_labels(known, self.conditional, self.data.job))
