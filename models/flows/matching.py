"""Distribution matching: moving a generator's images along the difference of two flows.

Everything is said with velocities. A flow's velocity at xt tells the image that it expects there,
mu = xt + (1 - t) v(xt, t), and the difference of the two expectations is, up to a factor of t
alone, the difference of the scores. So flows of every kind (EDM's among them) can be compared.
"""

import torch

from slimctl.models.flows.distance import squared_distance
from slimctl.models.flows.losses import Velocity
from slimctl.models.flows.path import expand_time, interpolate
from slimctl.models.shapes import Float, Int, Tensor

SMALLEST_SCALE = 1e-6
"""Mean distance of pixels below which a gradient is no longer divided by it."""


def expected_image(
    velocity: Velocity,
    xt: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    label: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """The image E[x1 | xt] = xt + (1 - t) v(xt, t) that a flow expects behind a point.

    Source: v = E[x1 - x0 | xt] with xt = (1 - t) x0 + t x1, Liu et al., arXiv 2209.03003.
    """
    return xt + (1.0 - expand_time(t)) * velocity(xt, t, label).to(xt.dtype)


@torch.no_grad()
def matching_gradient(
    real: Velocity,
    fake: Velocity,
    x: Float[Tensor, "b c h w"],
    x0: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    label: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Where generated images should move away from: against it, they come nearer to the real ones.

    At xt = (1 - t) x0 + t x, with the images mu that the two flows expect there,

        g = (mu_fake - mu_real) / mean |x - mu_real|,      the mean over a sample's pixels.

    Args:
        real: velocity of the teacher, the flow of the wanted distribution.
        fake: velocity of a flow of what the generator makes now.
        x: generated images.
        x0: fresh noise.
        t: flow times; uniform ones in [0.02, 0.98] are sigma 49 to 0.02, where DMD2's Karras times
            are sigma 0.0032 to 72 with far more at high noise.
        label: classes of a conditional flow.

    Source: Yin et al. (DMD), arXiv 2311.18828, equations 7 and 8, and Song et al. (multi-student
    distillation), arXiv 2410.23274, in our time. The papers noise to alpha x + sigma x0; the weight
    of equation 8 is alpha^2 and sigma away from ours in the scores, and the same in the images mu.
    """
    xt = interpolate(x0, x, t)
    mu_real = expected_image(real, xt, t, label)
    mu_fake = expected_image(fake, xt, t, label)
    scale = (x - mu_real).abs().mean(dim=(1, 2, 3), keepdim=True).clamp_min(SMALLEST_SCALE)
    return (mu_fake - mu_real) / scale


def matching_loss(
    x: Float[Tensor, "b c h w"], gradient: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """0.5 mean (x - stopgrad(x - g))^2: its derivative by x is g over the number of pixel values.

    Its value, 0.5 mean g^2, says nothing about the quality of x.

    Args:
        x: generated images, with their graph.
        gradient: g, by `matching_gradient`.

    Source: Yin et al. (DMD2), arXiv 2405.14867, section 3; the reference code of DMD.
    """
    return 0.5 * squared_distance(x, (x - gradient).detach())
