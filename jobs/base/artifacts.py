"""The typed handles that jobs return.

A handle is a frozen pydantic model stored as JSON, with the bytes beside it. File fields are names
inside the artifact's folder; the store's manifest has their sizes and checksums.
"""

from typing import Any, Literal

from pydantic import Field

from models.solvers.spec import GridSpec
from models.spec import ImageShape, Spec


class Handle(Spec):
    """Where a result is. Every handle names the artifact that holds its files."""

    id: str = ""
    """Artifact id, `<kind>-<key>`; set by the store."""


class Dataset(Handle):
    """Images with optional labels: `images` uint8 (N, H, W, C) and `labels` int64 (N,)."""

    image: ImageShape
    """Shape of the images; classes > 0 if they are labelled."""
    count: int
    """Number of images."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, where the source has them."""
    label_counts: tuple[int, ...] = ()
    """Images of each class; () if unlabelled."""
    flip_valid: bool
    """Whether a mirrored image is as good as the original."""
    file: str = "data.safetensors"


class FeatureNet(Handle):
    """A classifier whose inner features serve the metrics."""

    image: ImageShape
    network: dict[str, Any]
    """Spec of the classifier."""
    dimensions: int
    """Length of a feature vector."""
    accuracy: float
    """Share of held-out images classified rightly, 0..1."""
    file: str = "weights.safetensors"


class Flow(Handle):
    """Something with a velocity: a trained network or the closed form of a data set."""

    source: Literal["network", "data"]
    image: ImageShape
    network: dict[str, Any] | None = None
    """Spec of the network; None for a closed form."""
    prediction: Literal["velocity"] = "velocity"
    """What the network predicts."""
    t_start: float = 0.0
    """Flow time at which sampling starts, 0 = pure noise."""
    label_counts: tuple[int, ...] = ()
    """Label marginal to sample from, as counts; () if unconditional."""
    flip_valid: bool = False
    """Whether mirrored samples are as good."""
    parameters: int = 0
    """Weights of the network."""
    dataset: Dataset | None = None
    """Data of a closed form."""
    bandwidth: float = 0.0
    """Standard deviation put around each image of a closed form, in units of [-1, 1] pixels."""
    file: str = "weights.safetensors"
    """EMA weights of a network."""


class Generator(Handle):
    """A network that makes an image from noise in one evaluation."""

    image: ImageShape
    network: dict[str, Any]
    t_start: float = 0.0
    label_counts: tuple[int, ...] = ()
    flip_valid: bool = False
    parameters: int
    file: str = "weights.safetensors"


class ShardFile(Spec):
    """One shard of a pair set."""

    path: str
    """Path inside the storage."""
    size: int
    sha256: str


class PairSet(Handle):
    """Pairs (x0, x1) made by a flow; x0 is regenerated from (seed, index), x1 is float16."""

    image: ImageShape
    count: int
    """Number of pairs; the shards may hold more."""
    shard_size: int
    seed: int
    """Seed of the noise and the labels."""
    generator_version: int
    """Version of the counter-based generator that made the noise."""
    nfe: float
    """Mean number of network evaluations per pair."""
    label_counts: tuple[int, ...] = ()
    flip_valid: bool = False
    t_start: float = 0.0
    """Flow time at which x0 enters the flow."""
    shards: tuple[ShardFile, ...] = Field(default=(), repr=False)


class StepGrid(Handle):
    """A solver of fixed times and weights, fitted to a flow's exact end points."""

    image: ImageShape
    solver: GridSpec
    """The times and weights."""
    flow: str
    """Artifact id of the flow that it was fitted to."""
    nfe: int
    """Network evaluations per sample."""
    error_median: float
    """Median over held-out samples of the RMS difference from the exact end, in [-1, 1] units."""
    error_p90: float
    error_p99: float
    share_within_rounding: float
    """Share of held-out samples with an error below 2.3e-3, that of rounding to 8 bits, 0..1."""
    samples: int
    """Held-out samples."""
    exact_nfe: float
    """Evaluations that followed an exact trajectory."""


class QualityReport(Handle):
    """Measured quality and cost of a model."""

    model: str
    """Artifact id of the model."""
    model_type: Literal["Flow", "Generator"]
    solver: str
    """Solver in words, such as `euler 50`."""
    fid: float
    """Fréchet distance of features, on the pipeline's feature network."""
    fid_real: float
    """The same distance for as many images drawn with replacement from the data: the floor."""
    kid: float
    kid_low: float
    kid_high: float
    """95 % confidence interval of kid."""
    precision: float
    recall: float
    nfe: float
    """Network evaluations per sample."""
    samples: int
    features: str
    """Artifact id of the feature network."""
    reference: str
    """Artifact id of the data set."""
    parameters: int
    macs: int
    """Conv and linear multiply-adds of one network evaluation at batch 1."""
    latency_ms: float
    """Median time of one sample at batch 1, all evaluations."""
    latency_p90_ms: float
    device: str
    threads: int
    straightness: float | None
    """Mean squared deviation of the velocity from the straight line; None for a generator."""
    nearest_rms: float
    """Median RMS pixel distance of a sample to its nearest training image, in [-1, 1] units."""
    nearest_rms_real: float
    """The same for each training image to the nearest other one."""
    sheet: str = "samples.png"


HANDLES: dict[str, type[Handle]] = {
    cls.__name__: cls
    for cls in (Dataset, FeatureNet, Flow, Generator, PairSet, StepGrid, QualityReport)
}
"""Handle types by the name that a manifest carries."""
