"""What can be chosen in the classifier; the defaults suit 8 x 8 digits on two CPU cores.

It reads images only and is no network of a flow, so it is not among the network families.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from slimctl.models.networks.size import NetworkSize
from slimctl.models.networks.spec import level_heights
from slimctl.models.spec import ImageShape, Spec

if TYPE_CHECKING:
    from slimctl.models.networks.classifier.network import Classifier


class ClassifierSpec(Spec):
    """Residual blocks at falling heights, the mean over pixels, and two linear layers."""

    kind: Literal["classifier"] = "classifier"
    """Family of the network."""
    channels: int = Field(default=32, ge=4, le=4096)
    """Channels of the first level."""
    channel_multipliers: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        default=(1, 2), min_length=1, max_length=12
    )
    """Channels of each level over `channels`; each level after the first has half the height."""
    blocks: int = Field(default=1, ge=1, le=64)
    """Residual blocks a level."""
    features: int = Field(default=64, ge=2, le=4096)
    """Width of the feature vector, the input of the last layer."""

    def check(self, image: ImageShape) -> None:
        """Raises ValueError, saying what to change, if `build` cannot serve that shape."""
        level_heights(image.size, len(self.channel_multipliers))
        if image.classes < 2:
            raise ValueError(
                f"a classifier needs at least 2 classes, the images have {image.classes}"
                "\n  fix: give labelled images"
            )

    def build(self, image: ImageShape) -> "Classifier":
        """Makes the network with freshly initialised weights (torch's global generator).

        Raises:
            ValueError: as `check`.
        """
        from slimctl.models.networks.classifier.network import Classifier

        self.check(image)
        return Classifier(self, image)

    def size(self, image: ImageShape) -> NetworkSize:
        """Parameters, and multiply-adds of the features of one image, without building it."""
        inputs, height = self.channels, image.size
        parameters = (9 * image.channels + 1) * inputs
        macs = 9 * image.channels * inputs * height**2
        for level, multiplier in enumerate(self.channel_multipliers):
            height = height // 2 if level else height
            outputs = multiplier * self.channels
            for _ in range(self.blocks):
                skip = inputs * outputs if inputs != outputs else 0
                weights = 9 * inputs * outputs + 9 * outputs**2 + skip
                biases = 2 * outputs + (outputs if skip else 0)
                parameters += weights + biases + 2 * inputs + 2 * outputs
                macs += weights * height**2
                inputs = outputs
        parameters += 2 * inputs + (inputs + 1) * self.features
        parameters += (self.features + 1) * image.classes
        return NetworkSize(parameters=parameters, macs=macs + inputs * self.features)
