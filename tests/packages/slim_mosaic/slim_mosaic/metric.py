"""How much the pixels of the samples differ from each other."""

from slimctl.models.metrics import Metric

METRIC = Metric(
    name="contrast",
    label="contrast",
    better="higher",
    version=1,
    measure="slim_mosaic.metric:measure",
)


def measure(evidence) -> dict[str, float]:
    """The standard deviation of the samples' pixels, 0..255."""
    return {"contrast": float(evidence.images.float().std())}
