"""The typed handles that jobs return.

A handle is a frozen pydantic model stored as JSON, with the bytes beside it. File fields are names
inside the artifact's folder; the store's manifest has their sizes and checksums. What it says to
the jobs that take it are its `facts`.
"""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from slimctl.jobs.base.facts import Facts, Intake, LatentSpace
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.metrics import metrics
from slimctl.models.networks.autoencoder.spec import AutoencoderSpec
from slimctl.models.solvers.spec import GridSpec
from slimctl.models.spec import ImageShape, Spec

ADAPTIVE = ("rk45", "rk23")
"""Groups of rows that choose their steps as they go, though nothing was learned."""
FITTED = "fitted grid"
"""Group of the rows of `StepGrid`."""


class ShardFile(Spec):
    """A file of the storage that handles name, such as one shard of a pair set."""

    path: str
    """Path inside the storage."""
    size: int
    sha256: str


class Handle(Spec):
    """Where a result is. Every handle names the artifact that holds its files."""

    id: str = ""
    """Artifact id, `<kind>-<key>`; set by the store."""

    def facts(self) -> Facts:
        """What jobs that take this result are checked against."""
        return Facts(made=type(self).__name__)

    def elsewhere(self) -> tuple[ShardFile, ...]:
        """Files that belong to it and lie outside its folder, such as shards of a series."""
        return ()


class PromptSet(Handle):
    """Prompts by number, 0..count-1, as lines of JSON: `prompt` and, where known, `label`."""

    count: int
    """Number of prompts."""
    classes: int = 0
    """Largest label + 1; 0 = the prompts have no labels."""
    duplicates: int = 0
    """Prompts that another one repeats; those that were left out are not counted."""
    source: str = ""
    """What was read, in words."""
    file: str = "prompts.jsonl"

    def facts(self) -> Facts:
        return Facts(count=self.count, prompt_classes=self.classes, made="PromptSet")


class EncoderFiles(Spec):
    """The encoders of texts in the storage."""

    pipeline: str
    """Class of the pipeline that they are of, or `sentence`."""
    pixels: int
    """Height and width of the images, px, which some networks are told."""
    width: int = 0
    """What the network takes of each token, for an encoder that is left out."""
    length: int | None = None
    """Tokens of a sentence; None = as many as the encoder takes."""
    root: str
    """Folder inside the storage."""
    files: tuple[ShardFile, ...] = Field(repr=False)

    @property
    def content(self) -> tuple[tuple[str, str], ...]:
        """What makes them what they are: names below the folder, and sha256."""
        return tuple((file.path.removeprefix(self.root), file.sha256) for file in self.files)


class EmbeddedPrompts(Handle):
    """Prompts as a network takes them: rows `sequence`, `mask` and `pooled` by number, in shards.

    Encoded on the fly, there are no shards, and workers make the rows that they need.
    """

    prompts: PromptSet
    """The prompts themselves."""
    encoder: EncoderFiles
    encode: Literal["ahead", "on_the_fly"] = "ahead"
    dtype: Literal["float16", "float32"] = "float16"
    """Of the numbers in the rows."""
    tokens: int
    """Vectors of a prompt."""
    width: int
    """Numbers of a vector."""
    pooled: int | None = None
    """Numbers for the whole text; None = there are none."""
    masked: bool = False
    """Whether some vectors do not count."""
    cut: int | None = None
    """Prompts that had more tokens than the encoder takes; None on the fly: not known."""
    shard_size: int
    null: str = "null.safetensors"
    """The row of the text that stands for none."""
    shards: tuple[ShardFile, ...] = Field(default=(), repr=False)

    @property
    def count(self) -> int:
        """Number of prompts."""
        return self.prompts.count

    def facts(self) -> Facts:
        return Facts(
            count=self.count,
            prompt_classes=self.prompts.classes,
            text_width=self.width,
            made="EmbeddedPrompts",
        )

    def elsewhere(self) -> tuple[ShardFile, ...]:
        return (*self.shards, *self.encoder.files)


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
    source: str = ""
    """What was read, and how many files beside it were not; "" = not kept."""
    file: str = "data.safetensors"
    shards: tuple[ShardFile, ...] = Field(default=(), repr=False)
    """Files of the images of a large set, `images` each; () = they are in `file`, where the labels
    always are."""
    shard_counts: tuple[int, ...] = Field(default=(), repr=False)
    """Images of each."""

    def elsewhere(self) -> tuple[ShardFile, ...]:
        return self.shards

    def facts(self) -> Facts:
        counts = self.label_counts
        return Facts(
            image=self.image,
            count=self.count,
            flip_valid=self.flip_valid,
            classes_seen=sum(count > 0 for count in counts),
            label_counts=counts,
            made="Dataset",
        )


class Autoencoder(Handle):
    """What turns images into latents and back. A flow of latents and its students carry it."""

    network: dict[str, Any]
    """Its spec."""
    image: ImageShape
    """Shape of the images; others of these channels go as well."""
    parameters: int
    """Weights."""
    weights: str
    """sha256 of the file: latents of other weights are others."""
    file: str = "autoencoder.safetensors"

    @property
    def space(self) -> LatentSpace:
        """What its latents are of."""
        return LatentSpace(AutoencoderSpec.model_validate(self.network), self.weights)

    def facts(self) -> Facts:
        return Facts(latents=self.space, made="Autoencoder")


def space_of(autoencoder: Autoencoder | None) -> LatentSpace | None:
    """What the images of a handle are latents of; None = they are pixels."""
    return None if autoencoder is None else autoencoder.space


class FeatureNet(Handle):
    """A network whose features serve the metrics: trained here, or from a file."""

    source: Literal["classifier", "onnx", "inception", "transformers"] = "classifier"
    image: ImageShape | None = None
    """Images that a classifier was trained on; None for a network from outside."""
    channels: int | None = None
    """Channels that a network from outside takes; None = any."""
    size: int | None = None
    """Height and width in pixels that a network from outside takes; None = any."""
    network: dict[str, Any] | None = None
    """Spec of a classifier, or of a network of transformers."""
    dimensions: int
    """Length of a feature vector."""
    accuracy: float | None = None
    """Share of held-out images that a classifier classified rightly, 0..1."""
    file: str = "weights.safetensors"

    def facts(self) -> Facts:
        intake = Intake(self.channels, self.size)
        return Facts(image=self.image, intake=intake, dimensions=self.dimensions, made="FeatureNet")


class Averages(Spec):
    """Snapshots of two averages of power profiles, in `averages-<step>.safetensors`."""

    lengths: tuple[float, float]
    """Standard deviations of the profiles over the steps done."""
    steps: tuple[int, ...]
    """Optimizer steps after which each was taken."""
    wanted: float | None = None
    """Length of the average whose weights are to be loaded; None = those in the weights' file."""


class Flow(Handle, Parameterisation):
    """Something with a velocity: a trained network or the closed form of a data set."""

    source: Literal["network", "data"]
    image: ImageShape
    network: dict[str, Any] | None = None
    """Spec of the network; None for a closed form."""
    label_counts: tuple[int, ...] = ()
    """Label marginal to sample from, as counts; () if unconditional."""
    flip_valid: bool = False
    """Whether mirrored samples are as good."""
    parameters: int = 0
    """Weights of the network."""
    part: int | None = None
    """Part of the partition that it serves; None = it serves all labels."""
    partition: str = ""
    """Artifact id of that partition."""
    dataset: Dataset | None = None
    """Data of a closed form."""
    bandwidth: float = 0.0
    """Standard deviation put around each image of a closed form, in units of [-1, 1] pixels."""
    file: str = "weights.safetensors"
    """EMA weights of a network."""
    averages: Averages | None = None
    """Averages of other lengths; None where the training kept none."""
    autoencoder: Autoencoder | None = None
    """What decodes its images, which are latents then; None = they are pixels."""
    prompts: EmbeddedPrompts | None = None
    """Prompts whose numbers are its labels; None = it takes no texts, or knows none by number."""
    encoder: EncoderFiles | None = None
    """What encodes texts for it, beside its weights; None = what encoded `prompts` does."""

    @property
    def conditions(self) -> int:
        """Number of labels: classes, or prompts."""
        return self.prompts.count if self.prompts else self.image.classes

    def elsewhere(self) -> tuple[ShardFile, ...]:
        return () if self.encoder is None else self.encoder.files

    def facts(self) -> Facts:
        return Facts(
            image=self.image,
            flip_valid=self.flip_valid,
            part=self.part,
            closed_form=self.network is None,
            latents=space_of(self.autoencoder),
            text_width=self.prompts.width if self.prompts else None,
            flow=self,
            made="Flow",
        )


class Generator(Handle):
    """A network that makes an image from noise in one evaluation."""

    image: ImageShape
    network: dict[str, Any]
    t_start: float = 0.0
    label_counts: tuple[int, ...] = ()
    flip_valid: bool = False
    parameters: int
    part: int | None = None
    """Part of the partition that it serves; None = it serves all labels."""
    partition: str = ""
    """Artifact id of that partition."""
    chosen_by: str = ""
    """Artifact id of the features whose score chose its weights among those of its training; "" =
    none did."""
    averages: Averages | None = None
    """Averages of other lengths; None where the training kept none."""
    file: str = "weights.safetensors"
    autoencoder: Autoencoder | None = None
    """What its images are latents of; None = they are pixels."""
    prompts: EmbeddedPrompts | None = None
    """Prompts whose numbers are its labels; None = it takes no texts."""

    @property
    def conditions(self) -> int:
        """Number of labels: classes, or prompts."""
        return self.prompts.count if self.prompts else self.image.classes

    def facts(self) -> Facts:
        return Facts(
            image=self.image,
            flip_valid=self.flip_valid,
            part=self.part,
            latents=space_of(self.autoencoder),
            text_width=self.prompts.width if self.prompts else None,
            made="Generator",
        )


class Partition(Handle):
    """Conditions (labels, or rows of an embedding) in subsets of about equal size."""

    subsets: tuple[tuple[int, ...], ...]
    """Conditions of each part, rising; together they are all conditions, each once."""
    label_counts: tuple[int, ...] = ()
    """Images of each label, where it splits the labels of a data set."""
    method: str
    """How they were split."""
    prompts: EmbeddedPrompts | None = None
    """What it splits, if that is prompts: then there are no subsets, but the file."""
    sizes: tuple[int, ...] = ()
    """Prompts of each part."""
    file: str = "parts.safetensors"
    """`part` (count,) of each prompt; `centres` (K, D) and `prices` (K,): a text belongs to the
    part whose squared distance from its embedding, plus price, is least."""

    @property
    def conditions(self) -> int:
        """Number of conditions."""
        return self.prompts.count if self.prompts else sum(map(len, self.subsets))

    def facts(self) -> Facts:
        parts = len(self.sizes) if self.prompts else len(self.subsets)
        return Facts(parts=parts, made="Partition")


class Fleet(Handle):
    """Students that each serve a part of the labels, behind one router."""

    image: ImageShape
    members: tuple[Flow | Generator, ...]
    """The students by part: all flows, or all generators."""
    subsets: tuple[tuple[int, ...], ...]
    """Labels that each student serves."""
    partition: str
    """Artifact id of the partition."""
    label_counts: tuple[int, ...]
    """Label marginal to sample from, as counts."""
    flip_valid: bool = False
    t_start: float = 0.0
    """Flow time at which sampling starts."""
    parameters: int
    """Weights that one sample goes through: those of the largest student."""
    parameters_total: int
    """Weights of all students."""
    autoencoder: Autoencoder | None = None
    """What its images are latents of; None = they are pixels."""

    @property
    def prompts(self) -> EmbeddedPrompts | None:
        """Prompts that it was made for; None = it serves labels."""
        return self.members[0].prompts

    def facts(self) -> Facts:
        first = self.members[0]
        return Facts(
            image=self.image,
            flip_valid=self.flip_valid,
            flow=first if isinstance(first, Flow) else None,
            text_width=self.prompts.width if self.prompts else None,
            one_step=isinstance(first, Generator),
            latents=space_of(self.autoencoder),
            made="Fleet",
        )


class PairSet(Handle):
    """Pairs (x0, x1) made by a flow; x1 is float16, unclipped."""

    image: ImageShape
    count: int
    """Number of pairs; the shards may hold more."""
    shard_size: int
    noise: Literal["drawn", "stored"] = "drawn"
    """Whether x0 and the label are drawn again from (seed, index), or lie beside x1 (float32)."""
    seed: int
    """Seed of the noise and the labels; 0 where they are stored."""
    generator_version: int
    """Version of the counter-based generator that made the noise; 0 where it is stored."""
    nfe: float
    """Mean number of network evaluations per pair; 0 where pairs were made elsewhere."""
    label_counts: tuple[int, ...] = ()
    flip_valid: bool = False
    t_start: float = 0.0
    """Flow time at which x0 enters the flow."""
    shards: tuple[ShardFile, ...] = Field(default=(), repr=False)
    autoencoder: Autoencoder | None = None
    """What its images are latents of; None = they are pixels."""
    prompts: EmbeddedPrompts | None = None
    """Prompts that the pairs take in turn, in an order of the seed; None = they are of no texts."""

    @property
    def conditions(self) -> int:
        """Number of labels: classes, or prompts."""
        return self.prompts.count if self.prompts else self.image.classes

    def facts(self) -> Facts:
        return Facts(
            image=self.image,
            count=self.count,
            flip_valid=self.flip_valid,
            latents=space_of(self.autoencoder),
            prompt_classes=self.prompts.prompts.classes if self.prompts else None,
            text_width=self.prompts.width if self.prompts else None,
            made="PairSet",
        )

    def elsewhere(self) -> tuple[ShardFile, ...]:
        return self.shards


class LatentSet(Handle):
    """Latents of a data set's images, in their order: `x1` float16 (n, C, H, W) in shards."""

    image: ImageShape
    """Shape of the latents; classes > 0 if the images are labelled."""
    count: int
    shard_size: int
    label_counts: tuple[int, ...] = ()
    """Images of each class; () if unlabelled."""
    flip_valid: bool = False
    """Whether a mirrored latent is as good: it is not that of the mirrored image."""
    dataset: Dataset
    """The images, and their labels."""
    autoencoder: Autoencoder
    """What encoded them."""
    shards: tuple[ShardFile, ...] = Field(default=(), repr=False)

    def facts(self) -> Facts:
        counts = self.label_counts
        return Facts(
            image=self.image,
            count=self.count,
            flip_valid=self.flip_valid,
            classes_seen=sum(count > 0 for count in counts),
            label_counts=counts,
            latents=self.autoencoder.space,
            made="LatentSet",
        )

    def elsewhere(self) -> tuple[ShardFile, ...]:
        return self.shards


class SubsetQuality(Spec):
    """Quality of the samples of some labels, against the real images of those labels."""

    labels: tuple[int, ...]
    samples: int
    """Samples of these labels; few of them raise every distance."""
    real: int
    """Real images of these labels."""
    fid: float
    fid_real: float
    """The same distance for as many of the real images, drawn with replacement: the floor, as mean
    over draws."""
    fid_real_sd: float | None = None
    """Standard deviation over these draws; None in reports of earlier versions (of one draw)."""
    precision: float | None
    """None where there are too few images for the nearest neighbours asked for."""
    recall: float | None


class FidProtocol(Spec):
    """What a FID depends on besides the model: only FIDs of equal protocols compare."""

    features: str
    """Artifact id of the feature network; it changes with the content of a network from a file."""
    reference: str
    """Artifact id of the data set, or `sha256:...` of a statistics file."""
    samples: int
    """Samples of a draw."""
    draws: int
    """Independent draws, of which the lowest FID counts."""


class QualityReport(Handle):
    """Measured quality and cost of a model.

    Numbers of metrics that came later, or of other packages, stand beside the fields below by
    their own names; None where a metric does not apply.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float | None]

    model: str
    """Artifact id of the model."""
    model_type: Literal["Flow", "Generator", "Fleet"]
    solver: str
    """Solver in words, such as `euler 50`."""
    fid: float
    """Fréchet distance of features to the reference; the lowest one of several draws."""
    fids: tuple[float, ...] = ()
    """The same of each draw."""
    fid_resamples: tuple[float, ...] = ()
    """Distances of resampled samples, where `fid_kept` was asked for."""
    protocol: FidProtocol | None = None
    """What makes this FID comparable; None in reports of earlier versions."""
    fid_real: float
    """The same distance for as many images drawn with replacement from the data: the floor, as mean
    over draws."""
    fid_real_sd: float | None = None
    """Standard deviation over these draws; None in reports of earlier versions (of one draw)."""
    fid_real_draws: int = 1
    """Draws of the floor: 20 to 100, by the width of the features."""
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
    chosen_by: tuple[str, ...] = ()
    """Artifact ids of the feature networks whose scores chose the model's weights."""
    reference: str
    """Artifact id of the data set with the real images."""
    parameters: int
    """Weights that one sample goes through."""
    parameters_total: int = 0
    """Weights that must be kept ready: of a fleet those of all its students."""
    macs: int
    """Conv and linear multiply-adds of one network evaluation at batch 1."""
    latency_ms: float
    """Median time of one sample at batch 1, all evaluations."""
    latency_p90_ms: float
    latency_quiet: bool | None = None
    """Whether it was measured with nothing else on its device; None in earlier reports."""
    routing_us: float | None = None
    """Median time to find the student of one request, part of the latency; None without a fleet."""
    decode_ms: float | None = None
    """Median time to decode one sample, part of the latency; None where samples are pixels."""
    decoder_macs: int | None = None
    """Multiply-adds of decoding one sample, beside `macs`."""
    decoder_parameters: int | None = None
    """Weights of what decodes, beside `parameters`."""
    device: str
    threads: int
    straightness: float | None
    """Mean squared deviation of the velocity from the straight line; None for a generator."""
    nearest_rms: float
    """Median RMS pixel distance of a sample to its nearest training image, in [-1, 1] units."""
    nearest_rms_real: float
    """The same for each training image to the nearest other one."""
    parts: tuple[SubsetQuality, ...] = ()
    """Quality by part, where a partition is known; the joint distances are no mean of these."""
    classes: tuple[SubsetQuality, ...] = ()
    """Quality by class of a conditional model."""
    sheet: str = "samples.png"

    @property
    def chose_itself(self) -> bool:
        """Whether its features also chose the weights, which its FID and KID then flatter."""
        return self.features in self.chosen_by

    @property
    def fid_mean(self) -> float:
        """Mean FID over the draws."""
        return sum(self.fids) / len(self.fids) if self.fids else self.fid

    @property
    def sample_macs(self) -> float:
        """Multiply-adds of one sample, all evaluations: what it costs on any machine."""
        return self.macs * self.nfe

    def number(self, name: str) -> float | None:
        """What was measured under a name of `slimctl.models.metrics`; None = nothing."""
        found = getattr(self, name, None)
        return None if found is None else float(found)


def numbers_of(made: type[Handle]) -> list[str]:
    """Names of the numbers that results of a type have, those of added metrics too."""
    own = [name for name, info in made.model_fields.items() if info.annotation in (int, float)]
    if issubclass(made, QualityReport):
        own += [field for metric in metrics().values() if metric.version for field in metric.fields]
    return own


class Trial(Spec):
    """One combination of settings that a sweep looked at."""

    values: dict[str, Any]
    """Variable -> value."""
    state: Literal["done", "failed", "filtered", "stopped"]
    """filtered: a limit on its size ruled it out before anything was trained; stopped: its training
    fell behind that of others."""
    artifacts: dict[str, str] = Field(default_factory=dict)
    """Job -> artifact id of its result, as far as it came."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """`JOB.FIELD` -> measured number."""
    scores: tuple[tuple[int, float], ...] = ()
    """(optimizer step, score) of the training that the search watched; () if it watched none."""
    why: str = ""
    """Why it failed, was ruled out or was stopped."""


class SweepReport(Handle):
    """What a sweep tried and which trial it chose."""

    objectives: tuple[str, ...]
    """`JOB.FIELD` of each number that was to be small."""
    trials: tuple[Trial, ...]
    """In the order of the search."""
    chosen: int | None
    """Number of the best trial; None = nothing met the limits, or there are several objectives."""
    front: tuple[int, ...]
    """Trials that no other one beats in all objectives."""


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
    """Median over held-out samples of the RMS difference from the exact end, in [-1, 1] units; of
    latents relative to their RMS."""
    error_p90: float
    error_p99: float
    share_within_rounding: float
    """Share of held-out samples with an error below 2.3e-3, that of rounding to 8 bits, 0..1."""
    samples: int
    """Held-out samples."""
    exact_nfe: float
    """Mean evaluations of rk45 at the tolerance of the fit, uninterrupted, on the same samples."""

    def facts(self) -> Facts:
        return Facts(image=self.image, nfe=float(self.nfe), made="StepGrid")


class StepPolicy(Handle):
    """Policies that choose step sizes, one per training seed."""

    problem: dict[str, Any]
    """Spec of the problem that it was trained on."""
    problem_kind: Literal["three_body", "flow"]
    image: ImageShape | None = None
    """Shape of the images of its flow; None for three bodies."""
    flow: str = ""
    """Artifact id of the flow that it was trained on; "" for three bodies."""
    hidden: tuple[int, ...]
    """Widths of the Q-network's hidden layers."""
    observation_size: int
    """Numbers that a policy sees."""
    training_seeds: tuple[int, ...]
    validation: tuple[float, ...]
    """Highest mean return of each training seed on the validation episodes."""
    best_at: tuple[int, ...]
    """Decisions after which each was reached."""
    chosen: int
    """Number of the training seed whose policy is used: the best on the validation episodes."""
    best_return: float
    """Its mean return there."""
    decisions: int
    """Decisions that each training seed learned from."""
    file: str = "policy.safetensors"
    """Weights, named `<number of the training seed>.layers...`."""
    curves: str = "curves.png"

    def facts(self) -> Facts:
        return Facts(image=self.image, problem=self.problem_kind, made="StepPolicy")


class StepRow(Spec):
    """One way to choose steps, measured on the test episodes."""

    name: str
    """In words, such as `mu 0.01`, `policy`, `rk45 1e-3`."""
    group: str
    """What it belongs to, such as `hermite, time_scale`."""
    learned: bool = False
    """Whether a policy chose the steps."""
    cost: float
    """Median evaluations of an episode."""
    mean_cost: float
    """Mean evaluations of an episode."""
    error: float | None
    """Median error; None = infinite."""
    error_p90: float | None
    """90th percentile of the error; None = infinite."""
    bad_share: float
    """Share of episodes with a larger error than `StepReport.bad_error`, 0..1."""
    mean_return: float | None
    """Mean return of the decision process; None where it has none."""
    return_low: float | None = None
    return_high: float | None = None
    """95 % bootstrap interval of the mean return."""


class StepReport(Handle):
    """Learned steps against fixed and adaptive ones."""

    policy: str
    """Artifact id of the policy."""
    problem_kind: Literal["three_body", "flow"]
    episodes: int
    """Test episodes, none of them seen in training."""
    bad_error: float
    """Error that counts as bad."""
    rows: tuple[StepRow, ...] = Field(repr=False)
    """The policy's own problem: every policy, every fixed value, every other method."""
    transfer: tuple[StepRow, ...] = Field(default=(), repr=False)
    """Other integrators, without retraining."""
    policy_return: float
    """Mean return of the policies of all training seeds."""
    best_fixed: str
    """Fixed value with the highest mean return."""
    best_fixed_return: float
    advantage: float | None = None
    """`policy_return` less `best_fixed_return`; None in a report of an earlier version."""
    advantage_low: float | None = None
    advantage_high: float | None = None
    """Its 95 % bootstrap interval over episodes, each paired with itself."""
    policy_cost: float
    """Mean evaluations of the chosen policy."""
    policy_bad_share: float
    pictures: tuple[str, ...] = ()


HANDLES = {cls.__name__: cls for cls in Handle.__subclasses__()}
"""Handle types of this package by the name that a manifest carries."""
