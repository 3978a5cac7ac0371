"""The losses that training calls, one number per sample; averaging and weighting are the caller's.

Distribution matching is said with velocities like the rest: a flow's velocity at xt tells the image
that it expects there, and the difference of two such images is, up to a factor of t alone, the
difference of the scores. So flows of every kind (EDM's among them) can be compared.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.nn import functional

from slimctl.models.conditions import Condition
from slimctl.models.flows.flow import Flow
from slimctl.models.flows.path import expand_time, interpolate, path_velocity
from slimctl.models.flows.spec import HuberDistance, L2Distance
from slimctl.models.shapes import Float, Int, Tensor

Distance = Callable[[Tensor, Tensor], Tensor]
"""Two image batches (B, C, H, W) to distances (B,)."""
Velocity = Callable[[Tensor, Tensor, Any], Tensor]
"""`velocity(xt, t, label)`: a flow's method, or a network."""
SMALLEST_SCALE = 1e-6
"""Mean distance of pixels below which a matching gradient is no longer divided by it."""


def distance(spec: L2Distance | HuberDistance) -> Distance:
    """The distance that `spec` describes."""
    if isinstance(spec, L2Distance):
        return squared_distance
    return lambda x, y: pseudo_huber(x, y, spec.c)


def squared_distance(
    x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """Mean of (x - y)^2 over channels and pixels."""
    return (x - y).square().flatten(1).mean(dim=1)


def pseudo_huber(
    x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"], c: float | None = None
) -> Float[Tensor, " b"]:
    """Distance sqrt(||x - y||^2 + c^2) - c, quadratic far below c and linear far above.

    c > 0; None is 0.00054 sqrt(C H W). Source: Song and Dhariwal, arXiv 2310.14189, section 3.3.
    """
    if c is None:
        c = 0.00054 * math.sqrt(x.shape[1:].numel())
    squared = (x - y).square().flatten(1).sum(dim=1)
    # The same number as sqrt(s + c^2) - c without its cancellation where s is small.
    return squared / ((squared + c * c).sqrt() + c)


def flow_matching_loss(
    velocity: Velocity,
    x0: Float[Tensor, "b c h w"],
    x1: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    label: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """`velocity_error` of v(xt, t) at xt = (1 - t) x0 + t x1."""
    return velocity_error(velocity(interpolate(x0, x1, t), t, label), x0, x1)


def velocity_error(
    predicted: Float[Tensor, "b c h w"],
    x0: Float[Tensor, "b c h w"],
    x1: Float[Tensor, "b c h w"],
) -> Float[Tensor, " b"]:
    """Mean over (C, H, W) of (v - (x1 - x0))^2.

    Source: Liu et al., arXiv 2209.03003, equation 1; SlimFlow, arXiv 2407.12718, equation 9 with
    annealed x0.
    """
    return squared_distance(predicted.to(x0.dtype), path_velocity(x0, x1))


def teacher_matching_loss(
    student: Velocity,
    teacher: Velocity,
    x0: Float[Tensor, "b c h w"],
    x1: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    label: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """Mean over (C, H, W) of (v_student(xt, t) - v_teacher(xt, t))^2; the teacher gets no gradient.

    Source: Song et al., Multi-student distillation, arXiv 2410.23274, its teacher score matching,
    with velocities for scores: at a point xt the two differ by a factor and a term that both share.
    """
    xt = interpolate(x0, x1, t)
    with torch.no_grad():
        target = teacher(xt, t, label).to(x0.dtype)
    return squared_distance(student(xt, t, label).to(x0.dtype), target)


def one_step_velocity(
    flow: Flow, x0: Float[Tensor, "b c h w"], label: Condition = None
) -> Float[Tensor, "b c h w"]:
    """Velocity u of pure noise where it enters the flow; the one-step sample is `enter(x0 + u)`.

    A flow that predicts velocities is entered at x0 itself: u = v(x0, t_start), x0 + u, whose
    factor is exactly 1 whatever t_start is. Of one that denoises, enter(x0 + u) =
    (1 - t_start) (x0 + u) is the image expected at its start.

    Source: SlimFlow, arXiv 2407.12718, section 4; its students were trained at t_start = 1e-3 of
    our time, ours start at 0.
    """
    start = torch.full((len(x0),), flow.t_start, dtype=x0.dtype, device=x0.device)
    return flow.mean_velocity(flow.enter(x0), start, torch.ones_like(start), label)


def one_step_image(
    flow: Flow, x0: Float[Tensor, "b c h w"], label: Condition = None
) -> Float[Tensor, "b c h w"]:
    """The one-step sample of noise: `enter(x0 + u)`, which of a velocity is x0 + v(x0, t_start).

    Of a flow that denoises it is the image that it expects behind its noisiest point.
    """
    return flow.enter(x0 + one_step_velocity(flow, x0, label))


def one_step_loss(
    u: Float[Tensor, "b c h w"],
    x0: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    distance: Distance,
) -> Float[Tensor, " b"]:
    """D(x0 + u, target), u = v_student(x0, t_start): both terms of flow-guided distillation.

    The target is a pair's image, or `two_step_target` on fresh noise.

    Source: SlimFlow, arXiv 2407.12718, equations 11 to 13; the paper's time runs the other way.
    """
    return distance(x0 + u, target)


@torch.no_grad()
def two_step_target(
    guide: Flow,
    u: Float[Tensor, "b c h w"],
    x0: Float[Tensor, "b c h w"],
    s: Float[Tensor, " b"],
    label: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, "b c h w"]:
    """Where the guide leads from a point on the student's own line; carries no gradient.

    x_s = x0 + s u, w = v_guide(x_s, s), target = x_s + (1 - s) w.

    u is the student's v(x0, t_start), x0 fresh noise, and s is drawn from U(0.2, 0.8).

    Source: SlimFlow, arXiv 2407.12718, equations 11 to 13, time reversed; the first half step is
    the student's as in section 4.1, not the guide's: better, and one evaluation fewer.
    """
    xs = x0 + expand_time(s) * u
    return xs + (1.0 - expand_time(s)) * guide.velocity(xs, s, label)


@torch.no_grad()
def one_step_error(
    flow: Flow,
    x0: Float[Tensor, "b c h w"],
    x1: Float[Tensor, "b c h w"],
    label: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """Mean squared difference of the one-step sample x0 + v(x0, t_start) and the pair's image."""
    return squared_distance(x0 + one_step_velocity(flow, x0, label), x1)


@torch.no_grad()
def two_step_error(
    guide: Flow,
    x0: Float[Tensor, "b c h w"],
    x1: Float[Tensor, "b c h w"],
    s: Float[Tensor, " b"],
    label: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """Mean squared difference of the guide's own two-step sample and the pair's image.

    The two steps meet at time s in (0, 1). Where this is larger than the student's
    `one_step_error`, the two-step term teaches the student something worse than it knows.
    """
    first = guide.enter(x0 + one_step_velocity(guide, x0, label))
    return squared_distance(two_step_target(guide, first - x0, x0, s, label), x1)


def expected_image(
    velocity: Velocity,
    xt: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    label: Condition = None,
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

    Source: Yin et al. (DMD2), arXiv 2405.14867, section 3; the reference code of DMD.
    """
    return 0.5 * squared_distance(x, (x - gradient).detach())


def score_identity_loss(
    real: Velocity,
    fake: Velocity,
    x: Float[Tensor, "b c h w"],
    x0: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    label: Int[Tensor, " b"] | None = None,
    *,
    alpha: float,
) -> Float[Tensor, " b"]:
    """A loss whose gradient by generated images goes through both flows (`through_images`).

    At xt = (1 - t) x0 + t x, with the images mu that the two flows expect there,

        L = w <mu_real - mu_fake, (mu_real - x) - alpha (mu_real - mu_fake)>,

    w = 1 / mean |x - mu_real| without a gradient, and the mean over a sample's pixels. It hovers
    about 0 at alpha = 1, and is below 0 above: only a score tells how good a student is.

    Args:
        real: velocity of the teacher.
        fake: velocity of a flow of what the generator makes now.
        x: generated images, with a gradient.
        x0: fresh noise.
        t: flow times.
        label: classes of a conditional flow.
        alpha: weight of the squared difference.

    Source: Zhou et al. (SiD), arXiv 2404.04057, and its code; theirs is the sum over pixels, times
    100, which Adam does not see.
    """
    xt = interpolate(x0, x, t)
    mu_real = expected_image(real, xt, t, label)
    difference = mu_real - expected_image(fake, xt, t, label)
    error = mu_real - x
    weight = 1.0 / error.detach().abs().flatten(1).mean(dim=1).clamp_min(SMALLEST_SCALE)
    return weight * (difference * (error - alpha * difference)).flatten(1).mean(dim=1)


def velocity_identity_loss(
    real: Velocity,
    fake: Velocity,
    x: Float[Tensor, "b c h w"],
    x0: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    label: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """|u_real - v|^2 - |u_fake - v|^2 with v = x - x0, the mean over pixels.

    It is 2 / (1 - t)^2 of `score_identity_loss` at alpha = 1/2 without its w; arguments as there.

    Source: RealUID, its objective without real data (alpha = beta = 1).
    """
    xt, v = interpolate(x0, x, t), path_velocity(x0, x)
    mine = squared_distance(fake(xt, t, label).to(xt.dtype), v)
    return squared_distance(real(xt, t, label).to(xt.dtype), v) - mine


def through_images(
    x: Float[Tensor, "b c h w"], loss_of: Callable[[Tensor], Tensor]
) -> Float[Tensor, ""]:
    """A loss of images, 0-dim, whose gradient goes to them and not to the networks that judge them.

    The networks' weights may want gradients of other losses: they get none of this one.
    """
    point = x.detach().requires_grad_()
    loss = loss_of(point)
    (gradient,) = torch.autograd.grad(loss, point)
    return loss.detach() + ((x - x.detach()) * gradient).sum()


LARGEST_LOGIT = 10.0
LOWEST_RATIO, HIGHEST_RATIO = 0.1, 20.0


def divergence_weight(
    logit: Float[Tensor, " b"], divergence: Literal["kl", "js", "hellinger"]
) -> Float[Tensor, " b"]:
    """What a sample's `matching_gradient` is multiplied by for a divergence; the reverse KL has 1.

    r = exp(logit), held within 0.1..20, is p_real / p_student where the critic is right: kl has
    r, js r / (1 + r) and hellinger sqrt(r).

    Source: Xu et al. (f-distill), arXiv 2502.15681, table 1; the bounds are of FastGen's code.
    """
    bounded = logit.clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
    ratio = bounded.exp().clamp(LOWEST_RATIO, HIGHEST_RATIO)
    if divergence == "kl":
        return ratio
    return ratio / (1.0 + ratio) if divergence == "js" else ratio.sqrt()


def edm_weight(t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """t^2 + 4 (1 - t)^2: what a squared error of velocities weighs in EDM's training.

    It is EDM's 1 / sigma^2 + 1 / sigma_data^2 on the squared error of images, with sigma_data 0.5.

    Source: Karras et al., arXiv 2206.00364, table 1, in our time.
    """
    return t.square() + 4.0 * (1.0 - t).square()


def critic_loss(real: Float[Tensor, " n *k"], fake: Float[Tensor, " m *k"]) -> Float[Tensor, ""]:
    """softplus(fake) + softplus(-real): low where real logits are high and fake ones low.

    Source: Goodfellow et al., arXiv 1406.2661, non-saturating; as in DMD2, arXiv 2405.14867.
    """
    return functional.softplus(fake).mean() + functional.softplus(-real).mean()


def deception_loss(fake: Float[Tensor, " n *k"]) -> Float[Tensor, ""]:
    """softplus(-fake): low where generated images are taken for real. Source: `critic_loss`."""
    return functional.softplus(-fake).mean()
