"""What can be known of a result before it exists.

Facts flow along the edges of the graph when a pipeline is checked, so that a network that cannot
take the images or a flip that the data forbids is an error with a line number, not a dead job.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.networks.autoencoder.spec import AutoencoderSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ImageShape


@dataclass(frozen=True)
class Intake:
    """Images that a network from outside takes; None = any."""

    channels: int | None = None
    size: int | None = None
    """Height and width, px."""

    def takes(self, image: ImageShape) -> bool:
        """Whether images of that shape fit."""
        return self.channels in (None, image.channels) and self.size in (None, image.size)

    def __str__(self) -> str:
        size = "of any size" if self.size is None else f"of {self.size} x {self.size}"
        channels = "any number of" if self.channels is None else str(self.channels)
        return f"images {size} with {channels} channels"


@dataclass(frozen=True)
class LatentSpace:
    """The autoencoder that latents are of."""

    autoencoder: AutoencoderSpec
    weights: str = ""
    """sha256 of its weights; "" = only running tells."""

    def is_other(self, space: "LatentSpace") -> bool:
        """Whether these are surely latents of another autoencoder."""
        known = self.weights and space.weights
        return bool(known and self.weights != space.weights) or (
            self.autoencoder != space.autoencoder
        )


@dataclass(frozen=True)
class Facts:
    """Known properties of a job's result; None where only running tells."""

    image: ImageShape | None = None
    """Shape of the images, with the number of classes."""
    count: int | None = None
    """Number of images or pairs."""
    flip_valid: bool | None = None
    """Whether a mirrored image is as good as the original."""
    classes_seen: int | None = None
    """Number of classes that have an image."""
    label_counts: tuple[int, ...] | None = None
    """Images of each class."""
    label_columns: tuple[str, ...] = ()
    """Columns that could be the labels of images that were read without."""
    parts: int | None = None
    """Number of parts of a partition."""
    part: int | None = None
    """Part that a model serves, where it serves one only."""
    one_step: bool | None = None
    """Whether a fleet's students make samples in one step, without a solver."""
    closed_form: bool = False
    """Whether a flow is the closed form of a data set, without a network."""
    latents: LatentSpace | None = None
    """What the images are latents of, which are looked at only once they are decoded; None = they
    are pixels."""
    flow: Parameterisation | None = None
    """What a flow's network predicts, on which schedule."""
    nfe: float | None = None
    """Evaluations per sample of a solver."""
    problem: str | None = None
    """What a step policy decides about: `three_body` or `flow`."""
    made: str = ""
    """Handle type of the result, where the graph knows it."""
    intake: Intake | None = None
    """Images that a feature network from outside takes."""
    dimensions: int | None = None
    """Length of a feature vector."""
    network: NetworkSpec | None = None
    """Network of a flow or generator."""
    prompt_classes: int | None = None
    """Number of classes that prompts ask for; 0 = they have no labels."""
    text_width: int | None = None
    """Numbers of each token of embedded prompts."""
    chosen_by: tuple[str, ...] = ()
    """Jobs whose features chose something that the result came from: weights, or a trial."""
    averaged: bool | None = None
    """Whether averages of other lengths can be made of its weights."""
    feature_macs: int | None = None
    """Multiply-adds of the features of one image."""

    @property
    def pixels(self) -> ImageShape | None:
        """Shape of the images once they are decoded, with the number of classes."""
        if self.image is None or self.latents is None:
            return self.image
        return self.latents.autoencoder.pixels(self.image)


@dataclass(frozen=True)
class SpecWarning:
    """Something that can be done, but whose result says less than the user may think."""

    field: str
    """Name of the field, dotted for nested ones."""
    what: str
    """What is questionable, with the user's value."""
    fix: str
    """What to do."""


class FieldError(ValueError):
    """A field contradicts another field or an input.

    Args:
        field: name of the field, dotted for nested ones.
        what: what is wrong, with the user's value.
        fix: what to do.
    """

    facts: Facts = Facts()
    """What is known of the result all the same."""

    def __init__(self, field: str, what: str, fix: str = "") -> None:
        super().__init__(field, what, fix)
        self.field = field
        self.what = what
        self.fix = fix

    @property
    def each(self) -> "tuple[FieldError, ...]":
        """The errors one by one, where there are several."""
        return (self,)


class FieldErrors(FieldError):  # noqa: N818  (the name says what it is)
    """Fields of a job contradict other fields or inputs, in several ways or one.

    Args:
        errors: at least one; the first stands for all where only one can be known.
        facts: what is known of the result all the same.
    """

    def __init__(self, errors: Sequence[FieldError], facts: Facts) -> None:
        super().__init__(errors[0].field, errors[0].what, errors[0].fix)
        self.errors = tuple(errors)
        self.facts = facts
        self.args = (self.errors, facts)

    @property
    def each(self) -> tuple[FieldError, ...]:
        """The errors one by one."""
        return self.errors


class MissingFile(FieldError):  # noqa: N818  (the name says what it is)
    """A field names a file that is not there; all else about the job can still be checked."""

    def __init__(self, field: str, what: str, fix: str = "", facts: Facts | None = None) -> None:
        super().__init__(field, what, fix)
        self.facts = facts or Facts()
        self.args = (field, what, fix, self.facts)


def check_each(facts: Facts, *checks: Callable[[], None]) -> Facts:
    """Makes all checks of a job, so that no mistake hides another.

    Args:
        facts: what is known of the result whether or not the checks fail.
        checks: each raises FieldError where something is wrong.

    Returns:
        `facts`.

    Raises:
        FieldErrors: checks failed.
    """
    errors: list[FieldError] = []
    for check in checks:
        try:
            check()
        except FieldError as error:
            errors += error.each
    if errors:
        raise FieldErrors(errors, facts)
    return facts


def model_image(data: ImageShape, conditional: bool) -> ImageShape:
    """Shape of the images of a model of data: with its classes if conditional, else without."""
    return data if conditional else data.model_copy(update={"classes": 0})


def without_labels(data: Facts, job: str) -> tuple[str, str]:
    """Says that a data set has no labels, and where there may be some; and what to do then."""
    if not data.label_columns:
        return f"'{job}' has no labels", ""
    held = ", ".join(f"`{name}`" for name in data.label_columns)
    return (
        f"'{job}' has no labels (no column `label`, but {held})",
        f"set label: {data.label_columns[0]} on '{job}'",
    )


def check_labels(data: Facts, conditional: bool, job: str) -> None:
    """Raises FieldError if a model is to follow labels that the data does not have."""
    if conditional and data.image is not None and data.image.classes == 0:
        what, fix = without_labels(data, job)
        raise FieldError(
            "conditional",
            f"{what}, so the flow cannot be conditional",
            f"{fix or 'use a labelled data set'}, or set conditional: false",
        )


def check_space(inputs: Mapping[str, Facts], field: str, source: str, job: str) -> None:
    """Checks that two inputs are in one space: pixels, or latents of one autoencoder.

    Args:
        inputs: facts of each input, by field name.
        field: input that is checked.
        source: input that it has to go with.
        job: job of that.

    Raises:
        FieldError: they are not.
    """
    own, wanted = inputs.get(field, Facts()), inputs.get(source, Facts())
    if own.image is None or wanted.image is None:
        return
    if own.latents is None and wanted.latents is not None:
        what = f"its images are pixels, but '{job}' is of latents"
        raise FieldError(field, what, "name the latents of these images (kind: encode_latents)")
    if own.latents is not None and wanted.latents is None:
        what = f"it is of latents, but '{job}' of pixels"
        raise FieldError(field, what, "name images that were not encoded")
    if own.latents and wanted.latents and own.latents.is_other(wanted.latents):
        what = f"its latents are of another autoencoder than those of '{job}'"
        raise FieldError(field, what, f"use latents and models of the autoencoder of '{job}'")


def check_flip(flip: bool | None, valid: bool | None, job: str) -> None:
    """Raises FieldError if mirroring is asked for where the data forbids it."""
    if flip and valid is False:
        raise FieldError(
            "flip",
            f"'{job}' declares that mirrored images are not valid",
            "set flip: false or null; or flip_valid: true at the data set if mirroring is harmless",
        )
