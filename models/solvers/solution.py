"""What every solver returns."""

from dataclasses import dataclass

from slimctl.models.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Solution:
    """The end of a trajectory for each sample of a batch."""

    x1: Float[Tensor, "b c h w"]
    """Points at t_end, not clipped."""
    nfe: Int[Tensor, " b"]
    """Evaluations of each sample: of velocities, or of networks where `solve` counts them."""
    times: tuple[float, ...] = ()
    """Times of `states`."""
    states: tuple[Float[Tensor, "b c h w"], ...] = ()
    """Points at `times`, from x0 to x1; empty unless asked for."""


def check_finite(x: Float[Tensor, "b c h w"], t: float) -> None:
    """Raises FloatingPointError, naming how many samples, if points at time t are not finite."""
    lost = int((~x.isfinite()).flatten(1).any(dim=1).sum())
    if lost:
        raise FloatingPointError(
            f"{lost} of {len(x)} samples are not finite at t = {t:g}: "
            "check the weights, or take smaller steps"
        )
