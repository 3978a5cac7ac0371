"""The work of a job in floating-point operations, before it runs.

A multiply-add is two operations. Training a network costs its forward pass and twice as much for
the backward pass, which has a product for the inputs and one for the weights; a frozen network that
gradients only pass through lacks the latter.
"""

from dataclasses import dataclass

FORWARD = 2
"""Operations per multiply-add of an evaluation."""
TRAINING = 6
"""Of an evaluation and its gradient in weights and inputs."""
THROUGH = 4
"""Of an evaluation and its gradient in the inputs only."""


@dataclass(frozen=True)
class Work:
    """What a job has to compute; what is not counted is small beside it or said in `assumed`.

    Args:
        parameters: of the network that the job trains or runs.
        macs: multiply-adds of one evaluation of it for one image.
        flop: floating-point operations of the whole job.
        assumed: what had to be assumed or was left out.
    """

    parameters: int
    macs: int
    flop: float
    assumed: tuple[str, ...] = ()
