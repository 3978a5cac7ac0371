"""What can be chosen about a critic of images, a term of several kinds of training."""

from pydantic import Field

from slimctl.jobs.base.cluster import FORWARD, THROUGH, TRAINING
from slimctl.jobs.base.errors import what_and_fix
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.training.spec import Decay
from slimctl.models.flows.spec import TimeDensity
from slimctl.models.networks.image_critic.spec import ImageCriticSpec
from slimctl.models.networks.size import network_size
from slimctl.models.spec import ImageShape, Spec


class CriticSpec(Spec):
    """A small network that learns to tell real images from the student's, without the teacher.

    The critic minimises softplus(D(x) - D(y)) + penalty / 2 (|dD/dx|^2 + |dD/dy|^2) of pairs of a
    generated image x and a real one y, the student softplus(D(y) - D(x)).

    Source:
        Huang et al. (R3GAN), arXiv 2501.05441: there on images without noise, with penalty 0.05 to
        0.005 and Adam (0, 0.9 to 0.99) at 32 px.
    """

    network: ImageCriticSpec = ImageCriticSpec()
    """Its architecture."""
    weight: float = Field(default=0.01, gt=0)
    """Weight of the student's part beside its other terms."""
    penalty: float = Field(default=0.05, ge=0)
    """Weight of the squared slopes, R1 and R2, sums over pixels; what does for one critic and one
    size of images does not for another."""
    time: TimeDensity | None = None
    """Density of the flow times at which images are judged with noise of their own; null = all
    without noise."""
    clean_share: float = Field(default=0.5, ge=0, lt=1)
    """Share of each batch that is judged without noise all the same, where there is `time`."""
    augmentation: float = Field(default=0.0, ge=0, lt=1)
    """Probability of each augmentation (translation, scale, mirroring where flips are valid,
    brightness, contrast, cutout) of what the critic sees, real or not; below about 0.8 the student
    does not learn them."""
    augmentation_ramp: int = Field(default=0, ge=0)
    """Optimizer steps over which that probability rises from 0."""
    updates: int = Field(default=1, ge=1, le=1000)
    """Its steps before each of the student."""
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Its learning rate; null = learning_rate of the student. It follows the same warm-up and
    decay."""
    adam_betas: tuple[Decay, Decay] = (0.0, 0.99)
    """Decay rates of the two moments of its Adam."""

    def probability(self, step: int) -> float:
        """Of each augmentation at a step of the student's optimizer."""
        if not self.augmentation_ramp:
            return self.augmentation
        return self.augmentation * min(1.0, step / self.augmentation_ramp)

    def flop(self, image: ImageShape, student_macs: int) -> float:
        """Operations for each of the student's samples that it judges, its own training included.

        A slope's gradient costs as much as another training step of the critic.
        """
        macs = network_size(self.network, image).macs
        own = 2 * (2 * TRAINING) * macs + FORWARD * student_macs
        return self.updates * own + (THROUGH + FORWARD) * macs


def check_critic(critic: CriticSpec | None, made: Facts) -> None:
    """Raises FieldError where there is a critic that cannot judge such images."""
    if critic is None or made.image is None:
        return
    if made.latents is not None:
        what = "a critic of images looks at pixels, and the student makes latents"
        raise FieldError("critic", what, "leave critic out; match_distribution has adversarial")
    try:
        critic.network.check(made.image)
    except ValueError as error:
        raise FieldError("critic", *what_and_fix(error)) from error
