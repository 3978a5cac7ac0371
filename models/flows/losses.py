"""The losses of rectified flow, reflow and flow-guided distillation, one number per sample.

Averaging and weighting are the caller's. A student is evaluated once for both terms of the
distillation: `one_step_velocity` on the pairs and the fresh noise together (`distillation_losses`
does that), because a batch of 2 B costs less than two of B.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from slimctl.models.flows.distance import Distance, squared_distance
from slimctl.models.flows.flow import Flow
from slimctl.models.flows.path import expand_time, interpolate, path_velocity
from slimctl.models.shapes import Float, Int, Tensor

Velocity = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""`velocity(xt, t, label)`: a flow's method, or a network."""


def flow_matching_loss(
    velocity: Velocity,
    x0: Float[Tensor, "b c h w"],
    x1: Float[Tensor, "b c h w"],
    t: Float[Tensor, " b"],
    label: Int[Tensor, " b"] | None = None,
) -> Float[Tensor, " b"]:
    """Mean over (C, H, W) of (v(xt, t) - (x1 - x0))^2.

    Source: Liu et al., arXiv 2209.03003, equation 1; SlimFlow, arXiv 2407.12718, equation 9 with
    annealed x0.
    """
    predicted = velocity(interpolate(x0, x1, t), t, label)
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
    flow: Flow, x0: Float[Tensor, "b c h w"], label: Int[Tensor, " b"] | None = None
) -> Float[Tensor, "b c h w"]:
    """Velocity u of pure noise where it enters the flow; the one-step sample is `enter(x0 + u)`.

    A flow that predicts velocities is entered at x0 itself: u = v(x0, t_start), x0 + u. Of one that
    denoises, enter(x0 + u) = (1 - t_start) (x0 + u) is the image expected at its start.
    """
    start = torch.full((len(x0),), flow.t_start, dtype=x0.dtype, device=x0.device)
    return flow.velocity(flow.enter(x0), start, label)


def pair_distillation_loss(
    u: Float[Tensor, "b c h w"],
    x0: Float[Tensor, "b c h w"],
    x1: Float[Tensor, "b c h w"],
    distance: Distance,
) -> Float[Tensor, " b"]:
    """D(x0 + u, x1) on pairs, u = v_student(x0, t_start).

    Source: SlimFlow, arXiv 2407.12718, equations 11 to 13; the paper's time runs the other way.
    """
    return distance(x0 + u, x1)


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

    Args:
        guide: the frozen flow.
        u: the student's v(x0, t_start).
        x0: fresh noise.
        s: intermediate times, drawn from U(0.2, 0.8).
        label: classes of a conditional flow.

    Source: SlimFlow, arXiv 2407.12718, equations 11 to 13, time reversed; the first half step is
    the student's as in section 4.1, not the guide's: better, and one evaluation fewer.
    """
    xs = x0 + expand_time(s) * u
    return xs + (1.0 - expand_time(s)) * guide.velocity(xs, s, label)


def two_step_loss(
    u: Float[Tensor, "b c h w"],
    x0: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    distance: Distance,
) -> Float[Tensor, " b"]:
    """D(x0 + u, target), target by `two_step_target`. Source: as there."""
    return distance(x0 + u, target)


@dataclass(frozen=True)
class DistillationLosses:
    """Both terms of the distillation, one number per sample."""

    pair: Float[Tensor, " p"]
    two_step: Float[Tensor, " f"]


def distillation_losses(
    student: Flow,
    guide: Flow,
    pair_x0: Float[Tensor, "p c h w"],
    pair_x1: Float[Tensor, "p c h w"],
    fresh_x0: Float[Tensor, "f c h w"],
    s: Float[Tensor, " f"],
    distance: Distance,
    pair_label: Int[Tensor, " p"] | None = None,
    fresh_label: Int[Tensor, " f"] | None = None,
) -> DistillationLosses:
    """Both terms of flow-guided distillation from one evaluation of the student.

    Args:
        student: the flow in training, evaluated at its t_start only.
        guide: the frozen flow of the two-step term; in the paper the student's own start.
        pair_x0: noise of the pairs, not annealed.
        pair_x1: images of the pairs.
        fresh_x0: fresh noise for the two-step term.
        s: intermediate times of the two-step term, drawn from U(0.2, 0.8).
        distance: D.
        pair_label: classes of the pairs, where the flow is conditional.
        fresh_label: classes of the fresh noise, where the flow is conditional.

    Source: SlimFlow, arXiv 2407.12718, equations 11 to 13.
    """
    label = None
    if pair_label is not None and fresh_label is not None:
        label = torch.cat((pair_label, fresh_label))
    u = one_step_velocity(student, torch.cat((pair_x0, fresh_x0)), label).to(pair_x0.dtype)
    pair_u, fresh_u = torch.split(u, [len(pair_x0), len(fresh_x0)])
    target = two_step_target(guide, fresh_u, fresh_x0, s, fresh_label)
    return DistillationLosses(
        pair=pair_distillation_loss(pair_u, pair_x0, pair_x1, distance),
        two_step=two_step_loss(fresh_u, fresh_x0, target, distance),
    )


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
