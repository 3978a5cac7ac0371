"""Guidance and prompts as fields of the jobs that evaluate a teacher, and what they need of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import Field

from slimctl.jobs.base.artifacts import EmbeddedPrompts, Flow, Generator
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.networks import network_of
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import JobSpec
from slimctl.models.flows.spec import GuidanceSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ADDED

if TYPE_CHECKING:
    from slimctl.jobs.base.context import Handles


ModelT = TypeVar("ModelT", Flow, Generator)
GIVE_PROMPTS = "add 'prompts: ...', the name of an encode_prompts job with the teacher's encoder"


@dataclass(frozen=True)
class Guidance:
    """What a flow is guided by, with the handle of the weaker flow."""

    spec: GuidanceSpec
    weaker: Flow | None = None
    negative: str = ""
    """Prompt that it is driven away from; "" = the text that stands for none."""

    def __str__(self) -> str:
        interval = self.spec.interval
        between = f" from t = {interval[0]:g} to {interval[1]:g}" if interval else ""
        what = self.weaker.id if self.weaker else repr(self.negative) if self.negative else ""
        from_what = f" away from {what}" if what else ""
        return f"guidance {self.spec.scale:g}{between}{from_what}"


class GuidedJobSpec(JobSpec):
    """A job that evaluates a flow, which may be guided and asked for prompts of its own.

    Its fields enter the key only if given.
    """

    guidance: Annotated[Annotated[float, Field(ge=0, le=1000)] | GuidanceSpec | None, ADDED] = None
    """How far the flow is driven towards its labels, 1 = not at all: a number, or `{scale,
    interval: [first, last]}`; twice the evaluations. null = it is taken as it is."""
    weaker: Annotated[Ref[Flow] | None, ADDED] = None
    """What guidance drives away from: a flow of the same images, smaller or trained for a shorter
    time (autoguidance); null = the flow itself without a label."""

    negative: Annotated[str | None, ADDED] = None
    """Prompt that guidance drives away from, of a flow that takes texts; null = the text that
    stands for none."""

    prompts: Annotated[Ref[EmbeddedPrompts] | None, ADDED] = None
    """Prompts that a model of texts is asked for, from encode_prompts; null = those that it was
    trained on. A teacher from a pipeline's folder has none."""

    def keyed(self, content: dict[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
        content = super().keyed(content, inputs)
        if isinstance(self.guidance, float):
            content["guidance"] = {"scale": content["guidance"], "interval": None}
        return content

    def guided(self, handles: "Handles") -> Guidance | None:
        """What its flow is guided by; None = nothing."""
        if self.guidance is None:
            return None
        weaker = handles[self.weaker] if self.weaker else None
        return Guidance(_spec(self.guidance), weaker, self.negative or "")

    def prompted(self, handles: "Handles", flow: ModelT) -> ModelT:
        """The model with the prompts that it is asked for as its labels.

        Raises:
            UserError: they are not of the form that its network takes.
        """
        made = flow
        if self.prompts is not None:
            made = flow.model_copy(update={"prompts": handles[self.prompts]})
        network = network_of(flow) if flow.network else None
        if network is not None and network.takes_text and made.prompts is None:
            raise UserError(flow.id, "is conditional on texts, and there are none", GIVE_PROMPTS)
        if made.prompts is not None and network is not None:
            check_width(network, made.prompts.width, self.prompts.job if self.prompts else "")
        return made

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
        self._check_prompts(inputs, known, field, job)
        self._check_negative(known, job)
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

    def _check_prompts(
        self, inputs: Mapping[str, Facts], known: Facts, field: str, job: str
    ) -> None:
        network = known.network
        if self.prompts is None:
            if network is not None and network.takes_text and known.text_width is None:
                raise FieldError(field, f"'{job}' is conditional on texts", GIVE_PROMPTS)
            return
        if network is not None and not network.takes_text:
            what = f"'{job}' takes no texts, but '{self.prompts.job}' are prompts"
            raise FieldError("prompts", what, "leave prompts out")
        if network is not None:
            check_width(network, inputs["prompts"].text_width, self.prompts.job)

    def _check_negative(self, known: Facts, job: str) -> None:
        if self.negative is None:
            return
        if self.guidance is None or self.weaker is not None:
            what = "negative is what guidance drives away from, and there is no such guidance"
            raise FieldError("negative", what, "give guidance without weaker, or leave it out")
        labelled = known.image is not None and known.image.classes > 0
        if labelled or (known.network is not None and not known.network.takes_text):
            what = f"'{job}' takes no texts: a class has no opposite"
            raise FieldError("negative", what, "leave negative out")


def check_width(network: NetworkSpec, width: int | None, job: str) -> None:
    """Raises FieldError where texts are known not to be as wide as a network takes them."""
    if width is not None and network.text_width not in (None, width):
        raise FieldError(
            "prompts",
            f"'{job}' has {width} numbers a token, but the network takes {network.text_width}",
            "encode the prompts by the encoders in the teacher's own folder",
        )


def _spec(given: float | GuidanceSpec) -> GuidanceSpec:
    return given if isinstance(given, GuidanceSpec) else GuidanceSpec(scale=given)


def _has_null(known: Facts) -> bool:
    if known.closed_form:
        return known.image is not None and known.image.classes > 0
    return known.flow is not None and known.flow.null_class is not None
