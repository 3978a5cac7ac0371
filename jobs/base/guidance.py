"""Guidance as a field of the jobs that evaluate a teacher, and what it needs of the teacher."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import JobSpec
from slimctl.models.flows.spec import GuidanceSpec
from slimctl.models.spec import ADDED

if TYPE_CHECKING:
    from slimctl.jobs.base.context import Handles


@dataclass(frozen=True)
class Guidance:
    """What a flow is guided by, with the handle of the weaker flow."""

    spec: GuidanceSpec
    weaker: Flow | None = None

    def __str__(self) -> str:
        interval = self.spec.interval
        between = f" from t = {interval[0]:g} to {interval[1]:g}" if interval else ""
        from_what = f" away from {self.weaker.id}" if self.weaker else ""
        return f"guidance {self.spec.scale:g}{between}{from_what}"


class GuidedJobSpec(JobSpec):
    """A job that evaluates a flow, which may be guided. Its fields enter the key only if given."""

    guidance: Annotated[Annotated[float, Field(ge=0, le=1000)] | GuidanceSpec | None, ADDED] = None
    """How far the flow is driven towards its labels, 1 = not at all: a number, or `{scale,
    interval: [first, last]}`; twice the evaluations. null = it is taken as it is."""
    weaker: Annotated[Ref[Flow] | None, ADDED] = None
    """What guidance drives away from: a flow of the same images, smaller or trained for a shorter
    time (autoguidance); null = the flow itself without a label."""

    def keyed(self, content: dict[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
        content = super().keyed(content, inputs)
        if isinstance(self.guidance, float):
            content["guidance"] = {"scale": content["guidance"], "interval": None}
        return content

    def guided(self, handles: "Handles") -> Guidance | None:
        """What its flow is guided by; None = nothing."""
        if self.guidance is None:
            return None
        return Guidance(_spec(self.guidance), handles[self.weaker] if self.weaker else None)

    @property
    def costs(self) -> int:
        """Evaluations of networks that a velocity costs."""
        return 1 if self.guidance is None or _spec(self.guidance).scale == 1.0 else 2

    def check_guidance(self, inputs: Mapping[str, Facts], field: str, job: str) -> None:
        """Checks that a flow, of a job's field, can be guided.

        Raises:
            FieldError: it has no null class, or the weaker flow is of other images.
        """
        known = inputs.get(field, Facts())
        if self.guidance is None:
            if self.weaker is None:
                return
            what = f"'{self.weaker.job}' is the weaker flow of a guidance that is not given"
            raise FieldError("weaker", what, "give guidance, or leave weaker out")
        if field not in inputs:
            raise FieldError("guidance", "there is no flow to guide", "leave guidance out")
        if known.made not in ("", Flow.__name__):
            what = f"'{job}' is a {known.made}, and only a flow can be guided"
            raise FieldError("guidance", what, "leave guidance out")
        if self.weaker is not None:
            image = inputs["weaker"].image
            if image and known.image and image != known.image:
                what = f"'{self.weaker.job}' is of {image}, but '{job}' of {known.image}"
                raise FieldError("weaker", what, "name a flow of the same images and classes")
            return
        if known.image is not None and known.flow is not None and not _has_null(known):
            raise FieldError(
                "guidance",
                f"'{job}' has no null class, so it cannot be guided",
                "train it with label_dropout, name a weaker flow, or leave guidance out",
            )


def _spec(given: float | GuidanceSpec) -> GuidanceSpec:
    return given if isinstance(given, GuidanceSpec) else GuidanceSpec(scale=given)


def _has_null(known: Facts) -> bool:
    if known.closed_form:
        return known.image is not None and known.image.classes > 0
    return known.flow is not None and known.flow.null_class is not None
