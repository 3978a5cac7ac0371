"""A critic that compares: the losses of R3GAN, and the log ratio that its critic knows.

The critic says of a pair, one real and one generated image, by how much the first is above the
second. At its best that is the difference of the two log ratios ln p_real / p_made, so a number by
itself is one up to a constant, which a second loss finds without moving the critic.
"""

import torch
from torch.nn import functional

from slimctl.models.shapes import Float, Tensor


def relativistic_loss(
    above: Float[Tensor, " b"], below: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """softplus(below - above): low where the first of each pair has the larger number.

    The critic wants real images above generated ones, the generator the other way round.

    Source: Jolicoeur-Martineau, arXiv 1807.00734; Huang et al. (R3GAN), arXiv 2501.05441, eq. 2.
    """
    return functional.softplus(below - above)


def squared_slope(
    said: Float[Tensor, " b"], images: Float[Tensor, "b c h w"]
) -> Float[Tensor, " b"]:
    """|dD / dx|^2 at each image, the sum over pixels, with a gradient in the critic's weights.

    Of real images it is the penalty R1, of generated ones R2.

    Args:
        said: what the critic said of the images, each by itself.
        images: leaves that want a gradient.

    Source: Mescheder et al., arXiv 1801.04406, equations 9 and 10.
    """
    (slope,) = torch.autograd.grad(said.sum(), images, create_graph=True)
    return slope.square().flatten(1).sum(dim=1)


def calibration_loss(
    real: Float[Tensor, " b"], made: Float[Tensor, " b"], offset: Float[Tensor, " b"]
) -> Float[Tensor, " b"]:
    """Cross-entropy of `number - offset` as a log ratio, whose gradient goes to the offset alone.

    Where the numbers are log ratios up to a constant it is lowest at that constant: both kinds of
    image are then mistaken equally often.
    """
    return functional.softplus(offset - real.detach()) + functional.softplus(made.detach() - offset)
