"""What every flow offers: a velocity for a point, a time and a label.

`Flow.velocity` checks the labels once, for every kind of flow; what a network predicts other than
velocity is translated in a `Flow` of its own, so solvers and losses know velocities only.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from slimctl.models.conditions import Condition, Embedded, Texts
from slimctl.models.engine import without_engine
from slimctl.models.shapes import Float, Int, Tensor
from slimctl.models.spec import ImageShape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slimctl.models.networks.autoencoder.network import Autoencoder


class Flow(nn.Module, ABC):
    """A velocity field that carries noise at t = 0 to images at t = 1. Abstract.

    The images are pixels, or the latents that an autoencoder makes of them.

    Attributes:
        image: shape of the images and number of classes.
        t_start: flow time at which sampling starts, in [0, 1).
        null_class: label that stands for no class, beside those of `image`; None = there is none.
        takes_end: whether it knows the mean velocity of a step, and not only the velocity at t.
        autoencoder: what decodes the images, where they are latents; None where they are pixels,
            or where nobody has asked for it.
        text: what embeds prompts, of a flow that is conditional on texts; None of any other.
    """

    null_class: int | None = None
    takes_end: bool = False
    autoencoder: "Autoencoder | None"
    text: Texts | None = None
    evaluations: int = 1
    """Evaluations of a network that a velocity costs."""

    def __init__(self, image: ImageShape, t_start: float = 0.0) -> None:
        """Raises ValueError if t_start is outside [0, 1)."""
        super().__init__()
        if not 0.0 <= t_start < 1.0:
            raise ValueError(f"t_start is {t_start}: it must lie in [0, 1)")
        self.image = image
        self.t_start = t_start
        self.autoencoder = None

    def velocity(
        self,
        xt: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        label: Condition = None,
    ) -> Float[Tensor, "b c h w"]:
        """Velocity dx/dt at the points xt.

        Args:
            xt: points; at t = 1 pixels in [-1, 1], or latents.
            t: flow times in [0, 1].
            label: classes 0..classes-1, or the null class; embedded texts (`encode`), or numbers
                of prompts where the flow has some; None for an unconditional flow.

        Raises:
            ValueError: labels or texts are missing, not wanted or, on the CPU, outside the range.
        """
        self._check(xt, label)
        return self._velocity(xt, t, label)

    def _check(self, xt: Tensor, label: Condition) -> None:
        if self.text is not None and not isinstance(label, Embedded):
            if label is None or not self.text.numbered:
                raise ValueError(
                    "this flow is conditional on texts\n  fix: pass flow.encode(prompts) to it"
                )
        elif not isinstance(label, Embedded):
            check_label(self.image, label, self.null_class)
        elif self.text is None:
            raise ValueError("this flow takes no texts\n  fix: pass labels, or nothing")
        elif len(label) != len(xt):
            raise ValueError(f"there are {len(label)} texts for {len(xt)} samples")

    def encode(
        self, prompts: "str | Sequence[str]", sizes: "Sequence[float | int] | None" = None
    ) -> Embedded:
        """Prompts as conditions of this flow, one a row.

        Args:
            prompts: at least one; those that are too long are cut, with a warning.
            sizes: what the network is told of sizes, px: of Stable Diffusion XL the original
                height and width, top and left of the crop, height and width wanted; None = those
                of images that fill their frame.

        Raises:
            ValueError: the flow takes no texts, or they cannot be encoded.
        """
        if self.text is None:
            raise ValueError("this flow takes no texts, so there is nothing to encode them by")
        return self.text.encode(prompts, sizes)

    def guided(
        self,
        scale: float,
        negative: "str | Sequence[str] | Embedded | Tensor | None" = None,
        *,
        interval: tuple[float, float] | None = None,
        weaker: "Flow | None" = None,
    ) -> "GuidedFlow":
        """This flow, driven towards its label and away from what it does without.

        Args:
            scale: w >= 0; 1 = as it is, above 1 = further.
            negative: prompts, one for all samples or one for each, that a flow of texts is driven
                away from; None = the text that stands for none. Of classes it must be None: no
                class is the opposite of another.
            interval: flow times (first, last) between which it is driven; None = all.
            weaker: what it is driven away from: a flow of the same images, smaller or trained for
                a shorter time; None = itself without a label.

        Raises:
            ValueError: the flow knows no null class and there is no weaker one, the two are of
                other images, or an argument is out of its range.
        """
        if self.text is None and negative is not None:
            raise ValueError(
                "a class has no opposite, so there is nothing that negative could say"
                "\n  fix: leave negative out"
            )
        if negative is None or isinstance(negative, (Embedded, Tensor)):
            away = negative if isinstance(negative, Embedded) else None
        else:
            away = self.encode(negative)
        return GuidedFlow(self, scale, interval, weaker, away)

    @property
    def sigma_range(self) -> tuple[float, float] | None:
        """Smallest and largest noise level of a flow that denoises; None of any other."""
        return None

    def mean_velocity(
        self,
        xt: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        end: Float[Tensor, " b"],
        label: Condition = None,
    ) -> Float[Tensor, "b c h w"]:
        """Velocity with which Euler's method takes the step from t to `end`.

        It is the step's mean velocity where a network knows that, else the velocity at t.

        Raises:
            ValueError: as `velocity`.
        """
        self._check(xt, label)
        return self._mean_velocity(xt, t, end, label)

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k y x"]:
        """Pixels in [-1, 1], not clipped, of what the flow ends at.

        A flow without an autoencoder makes pixels, which are returned as they are.
        """
        return latents if self.autoencoder is None else self.autoencoder.decode_all(latents)

    def enter(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The point at t_start that noise of unit variance stands for: here x0 itself."""
        return x0

    @abstractmethod
    def _velocity(self, xt: Tensor, t: Tensor, label: Condition) -> Tensor:
        """Velocity with checked labels; shapes as in `velocity`."""

    def _mean_velocity(self, xt: Tensor, t: Tensor, end: Tensor, label: Condition) -> Tensor:
        """Mean velocity with checked labels; shapes as in `mean_velocity`."""
        del end  # known to networks of two times only
        return self._velocity(xt, t, label)


class NetworkFlow(Flow):
    """A flow whose velocity is the output of a network called as `network(xt, t, label)`.

    A network of two times gives mean velocities, and the velocity as that of no step at all.
    """

    def __init__(self, network: nn.Module, image: ImageShape, t_start: float = 0.0) -> None:
        super().__init__(image, t_start)
        self.network = network
        self.takes_end = getattr(without_engine(network), "takes_end", False)
        self.text = getattr(without_engine(network), "texts", None)

    def _velocity(self, xt: Tensor, t: Tensor, label: Condition) -> Tensor:
        return self._mean_velocity(xt, t, t, label)

    def _mean_velocity(self, xt: Tensor, t: Tensor, end: Tensor, label: Condition) -> Tensor:
        times = (end,) if self.takes_end else ()
        velocity: Tensor = self.network(xt, t, label, *times)
        return velocity


class GuidedFlow(Flow):
    """Guidance: v = v' + w (v(xt, t, label) - v'), where v' knows less. Final.

    v' is the velocity for the null class (classifier-free guidance), or that of a weaker flow for
    the same label (autoguidance). All predictions of a network (noise, image, v, velocity) are at a
    point and time the same function of the velocity, of degree one, so that guidance of any of them
    is guidance of the velocity. Both velocities are evaluated at every time, inside the interval or
    not, except that w = 1 is the flow itself.

    Source: Ho and Salimans, arXiv 2207.12598, equation 6, with w = 1 + its w; Karras et al., arXiv
    2406.02507 (autoguidance); Kynkäänniemi et al., arXiv 2404.07724 (the interval).
    """

    def __init__(
        self,
        flow: Flow,
        scale: float,
        interval: tuple[float, float] | None = None,
        weaker: Flow | None = None,
        negative: Embedded | None = None,
    ) -> None:
        """Takes what `Flow.guided` takes, and raises as it does."""
        _check_guidance(flow, scale, interval, weaker)
        super().__init__(flow.image, flow.t_start)
        self.flow = flow
        self.weaker = weaker
        self.scale = scale
        self.interval = interval
        self.negative = negative
        self.text = flow.text
        self.null_class = flow.null_class
        self.autoencoder = flow.autoencoder
        other = flow if weaker is None else weaker
        self.evaluations = flow.evaluations + (other.evaluations if scale != 1.0 else 0)

    @property
    def sigma_range(self) -> tuple[float, float] | None:
        return self.flow.sigma_range

    def enter(self, x0: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The flow's own point."""
        return self.flow.enter(x0)

    def _velocity(self, xt: Tensor, t: Tensor, label: Condition) -> Tensor:
        velocity = self.flow.velocity(xt, t, label)
        if self.scale == 1.0:
            return velocity
        less = self._less(xt, t, label)
        driven = less + self.scale * (velocity - less)
        if self.interval is None:
            return driven
        first, last = self.interval
        inside = (t >= first) & (t <= last)
        return torch.where(inside[:, None, None, None], driven, velocity)

    def _less(self, xt: Tensor, t: Tensor, label: Condition) -> Tensor:
        """What the velocity is driven away from."""
        if self.weaker is not None:
            return self.weaker.velocity(xt, t, label)
        if isinstance(label, Embedded):
            return self.flow.velocity(xt, t, self._less_text(label))
        assert label is not None  # checked: a flow with a null class has labels
        if self.negative is not None:
            return self.flow.velocity(xt, t, self.negative.to(xt.device).repeat(len(xt)))
        assert self.null_class is not None
        return self.flow.velocity(xt, t, torch.full_like(label, self.null_class))

    def _less_text(self, label: Embedded) -> Embedded:
        """The texts that it is driven away from, for images of the sizes that are wanted."""
        assert self.text is not None  # checked
        less = self.text.null() if self.negative is None else self.negative
        less = less.repeat(len(label)) if len(less) == 1 else less
        return replace(less.to(label.sequence.device), extra=label.extra)


def _check_guidance(
    flow: Flow, scale: float, interval: tuple[float, float] | None, weaker: Flow | None
) -> None:
    if not 0.0 <= scale < math.inf:
        raise ValueError(f"scale is {scale}: give a number of at least 0, where 1 is no guidance")
    if interval is not None and not 0.0 <= interval[0] < interval[1] <= 1.0:
        raise ValueError(f"interval is {interval}: give flow times 0 <= first < last <= 1")
    if weaker is None and flow.null_class is None:
        raise ValueError(
            "this flow has no null class, so it cannot be guided"
            "\n  fix: train it with label_dropout, or give a weaker flow of the same images"
        )
    if weaker is not None and weaker.image != flow.image:
        raise ValueError(
            f"the weaker flow is of {weaker.image}, this one of {flow.image}"
            "\n  fix: give a weaker flow of the same images and classes"
        )


def check_label(
    image: ImageShape, label: Int[Tensor, " b"] | None, null_class: int | None = None
) -> None:
    """Checks that labels are given exactly where there are classes, and that they are classes.

    The null class, where there is one, is a label as well.

    Values are looked at on the CPU only: on an accelerator that would wait for all earlier work.

    Raises:
        ValueError: labels are missing, not wanted or outside 0..classes-1.
    """
    classes = image.classes
    if label is None:
        if classes > 0:
            raise ValueError(f"this model has {classes} classes: pass a label for each sample")
        return
    if classes == 0:
        raise ValueError("this model is unconditional, but labels were passed: leave them out")
    if label.device.type != "cpu" or len(label) == 0:
        return
    given = label if null_class is None else label[label != null_class]
    if len(given) == 0:
        return
    low, high = (int(bound) for bound in given.aminmax())
    if low < 0 or high >= classes:
        null = "" if null_class is None else f", and {null_class} for none"
        raise ValueError(f"labels run from {low} to {high}: this model has 0..{classes - 1}{null}")
