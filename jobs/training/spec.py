"""What every job that trains a network lets the user choose.

A student of a part of the labels keeps all classes in its network, so that it takes the pairs and
the teacher of the whole; that it serves a part shows in its label counts, which are 0 for all other
labels. Scores on the way change nothing of the result: the loss of a distillation falls long after
the images have stopped getting better, and a search can stop the trainings that fall behind.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import Field, model_validator

from slimctl.jobs.base.artifacts import Dataset, FeatureNet, Flow, Generator, PairSet, Partition
from slimctl.jobs.base.cluster import TRAINING, Cluster, Needs, Range, Work, range_mistake
from slimctl.jobs.base.errors import what_and_fix
from slimctl.jobs.base.facts import Facts, FieldError, check_each, check_flip, check_space
from slimctl.jobs.base.memory import Memory
from slimctl.jobs.base.networks import network_of
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import SPEED_ONLY, Placement, SeededJobSpec
from slimctl.jobs.training.memory import Load, training_memory
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.networks.classifier.spec import ClassifierSpec
from slimctl.models.networks.denoiser.spec import DenoiserSpec
from slimctl.models.networks.size import network_size
from slimctl.models.networks.slim import SlimSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ADDED, ImageShape, Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slimctl.jobs.base.context import Handles
    from slimctl.jobs.training.evaluator import Watch
    from slimctl.models.conditions import Marginal

ModelT = TypeVar("ModelT", Flow, Generator)
Decay = Annotated[float, Field(ge=0, lt=1)]
Length = Annotated[float, Field(gt=0, le=0.28)]
SNAPSHOTS = 16
"""Of the averages of power profiles, evenly over a training."""
SMALLEST_CPU_SHARE = 32
"""Samples per step below which another CPU worker costs more than it brings."""
SMALLEST_GPU_SHARE = 64
"""Samples per step that a GPU has at least: with fewer a step waits for its launches, as long as
with so many, and the GPU does more for another job. Assumed, as no GPU has measured it yet."""


def check_network(network: NetworkSpec | ClassifierSpec | None, image: ImageShape | None) -> None:
    """Checks that a network can serve images of that shape, where both are known.

    Raises:
        FieldError: it cannot.
    """
    if network is None or image is None:
        return
    try:
        network.check(image)
    except ValueError as error:
        what, fix = what_and_fix(error)
        raise FieldError("network", what, fix) from error


class TrainingSpec(SeededJobSpec):
    """Settings of the training loop, shared by all kinds that train."""

    placement: ClassVar[Placement] = "own"

    steps: int = Field(ge=1)
    """Optimizer steps."""
    batch_size: int = Field(default=128, ge=1)
    """Samples per optimizer step, over all workers."""
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    """Adam's learning rate after warm-up."""
    warmup: int = Field(default=0, ge=0)
    """Steps over which the learning rate rises linearly from 0."""
    decay: Literal["constant", "cosine"] = "constant"
    """Learning rate after warm-up: constant, or a half cosine down to 0 at the last step."""
    adam_betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates of Adam's two moments, each in [0, 1)."""
    adam_epsilon: float = Field(default=1e-8, gt=0)
    """Adam's epsilon."""
    gradient_clip: float | None = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient; null = no clipping."""
    ema_decay: float = Field(default=0.999999, gt=0, lt=1)
    """Largest decay of the weight average; early on it is (1 + n) / (10 + n)."""
    ema_profiles: Annotated[tuple[Length, Length] | None, ADDED] = None
    """Lengths of two more averages, such as [0.05, 0.1] of the steps done, of which 16
    snapshots are kept with the result, at 32 times the size of the weights: `ema` of `evaluate`
    then makes the average of any length of them (post-hoc EMA). null = none."""
    precision: Literal["auto"] | Precision = "auto"
    """Of products and convolutions in training, all else being float32; auto = bfloat16 where the
    device has it."""
    workers: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)] | Range, SPEED_ONLY] = "auto"
    """Ray Train workers; auto = one per GPU with at least 64 samples each (other jobs take the GPUs
    that are left), on CPUs one per core up to 8 with 32 samples each; {min, max} = as many of them
    as the cluster has at the time."""
    threads: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)], SPEED_ONLY] = "auto"
    """CPU threads of a worker; auto = 1 on CPUs, beside a GPU its part of the node's, up to 4."""
    shared: Annotated[Literal["auto"] | bool, SPEED_ONLY] = "auto"
    """Whether to train without Ray Train, which takes 12 s and four more processes to start: true =
    in a process that serves other short jobs too, with one worker; false = never; auto = in a
    process of its own where there is one worker, on CPUs."""
    checkpoint_s: Annotated[float, Field(gt=0), SPEED_ONLY] = 60.0
    """Longest training time between two checkpoints, s."""
    micro_batch: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)], SPEED_ONLY] = "auto"
    """Most samples of batch_size that a worker computes at once; gradients of several micro-batches
    add up to that of the batch, whose other sizes are cut alike. auto = its whole share. Halved
    where the memory does not suffice, and noted in the artifact."""
    checkpoint_activations: Annotated[Literal["auto"] | bool, SPEED_ONLY] = "auto"
    """Whether blocks keep their inputs only and are computed again for the gradient, in the score
    network too: about a third more time, and a fraction of the memory. auto = where by the plan's
    estimate fewer than 64 samples would otherwise fit a GPU at once."""
    shard: Annotated[Literal["auto", "none", "full"], SPEED_ONLY] = "auto"
    """Whether several workers split networks, gradients, moments and averages among them (FSDP2):
    full = student, score network and teacher, each block's weights being gathered while it is
    computed; none = each holds all. auto = full where by the plan's estimate one GPU cannot."""
    hang_s: Annotated[float, Field(gt=0), SPEED_ONLY] = 600.0
    """Longest time between two steps of several workers, s, scores included; after it they log
    their stacks and the training goes on from its last checkpoint."""
    log_every: Annotated[int, Field(ge=1), SPEED_ONLY] = 50
    """Steps between two points of the loss curve."""

    def batches(self) -> dict[str, int]:
        """Sizes of the batches of a step, by field name; each is split evenly over the workers."""
        return {"batch_size": self.batch_size}

    @model_validator(mode="after")
    def _batches_split(self) -> Self:
        if mistake := range_mistake(self.workers):
            raise ValueError(f"workers: {mistake}")
        if self.shared is True and self.workers not in ("auto", 1):
            raise ValueError(
                f"shared: true trains in one process, not in {self.workers} workers; "
                "leave workers out, or set shared: false"
            )
        for name, size in self.batches().items():
            for workers in self.worker_counts():
                if size % workers:
                    raise ValueError(
                        f"{name} {size} cannot be split evenly over {workers} workers; "
                        f"make it a multiple of {math.lcm(*self.worker_counts())}"
                    )
        return self

    @property
    def snapshot_every(self) -> int:
        """Steps between two snapshots of the averages of power profiles; 0 = there are none."""
        return 0 if self.ema_profiles is None else -(-self.steps // SNAPSHOTS)

    def averaged(self) -> bool:
        return self.ema_profiles is not None

    def worker_counts(self) -> range:
        """The numbers of workers that the spec names; empty for auto."""
        if isinstance(self.workers, Range):
            return range(self.workers.min, self.workers.max + 1)
        return range(0) if self.workers == "auto" else range(self.workers, self.workers + 1)

    def layout(self, cluster: Cluster) -> tuple[int, int]:
        """Workers and CPU threads per worker: fixed functions of the whole cluster and the spec.

        Of a range of workers it is the smallest number: a job starts as soon as those are free.

        On CPUs a worker has one thread: workers wait for each other once a step, threads at every
        operation, which on a busy machine costs several times as much (measured: 66 ms a step on
        one thread became 430 ms on two).
        """
        if self.shared is True:
            workers = 1
        elif isinstance(self.workers, Range):
            workers = self.workers.min
        elif self.workers != "auto":
            workers = self.workers
        else:
            most = (
                min(cluster.gpus, self.batch_size // SMALLEST_GPU_SHARE)
                if cluster.gpus
                else min(cluster.cpus, self.batch_size // SMALLEST_CPU_SHARE, 8)
            )
            sizes = self.batches().values()
            workers = max(n for n in range(1, max(1, most) + 1) if all(b % n == 0 for b in sizes))
        if self.threads != "auto":
            return workers, self.threads
        return workers, max(1, int(cluster.beside_gpu)) if cluster.gpus else 1

    def in_process(self, cluster: Cluster) -> bool:
        """Whether the job's own process trains, without Ray Train: the result is the same."""
        if isinstance(self.shared, bool):
            return self.shared
        most = max(self.worker_counts(), default=self.layout(cluster)[0])
        return most == 1 and cluster.gpus == 0

    def labels(self, handles: "Handles", classes: int) -> tuple[int, ...] | None:
        """Labels that the student serves, of so many classes that it learns from; None = all."""
        return None

    def student(
        self, made: type[ModelT], handles: "Handles", source: PairSet | Flow, network: NetworkSpec
    ) -> ModelT:
        """The handle of a student, but for its weights."""
        fields = {
            "image": source.image,
            "network": network.model_dump(mode="json"),
            "label_counts": restricted(
                source.label_counts, self.labels(handles, source.conditions)
            ),
            "flip_valid": source.flip_valid,
            "parameters": 0,
            "autoencoder": source.autoencoder,
            "prompts": source.prompts,
        }
        if made is Flow:
            fields["source"] = "network"
        return made.model_validate(fields)

    def load(self, inputs: "Mapping[str, Facts]") -> Load | None:
        """What the kind has on a device; None where networks or images are not known."""
        return None

    def memory(
        self, inputs: "Mapping[str, Facts]", cluster: Cluster, limit: int | None
    ) -> Memory | None:
        load = self.load(inputs)
        return None if load is None else training_memory(self, load, cluster, limit)

    def watch(self, handles: "Handles", student: Flow | Generator) -> "Watch | None":
        """What scores the student while it trains; None if nothing does."""
        return None

    def placed(self, cluster: Cluster) -> Placement:
        if self.shared is True:
            return "shared"
        return "alone" if self.in_process(cluster) else self.placement

    def needs(self, cluster: Cluster) -> Needs:
        workers, threads = self.layout(cluster)
        if cluster.gpus == 0:
            return Needs(cpus=workers * threads, gpus=0, parts=workers)
        held = cluster.beside_gpu if self.threads == "auto" else threads
        return Needs(cpus=workers * held, gpus=workers, parts=workers)


class PartTrainingSpec(TrainingSpec):
    """A training that can be restricted to a part of the labels."""

    partition: Ref[Partition] | None = None
    """Split of the labels of which the student serves a part; null = it serves all labels."""
    part: int | None = Field(default=None, ge=0)
    """Part that it serves, from 0."""
    slim_of: Annotated[Ref[Flow] | None, ADDED] = None
    """Teacher whose slimmer copy the network is: as `network: {slim_of: TEACHER, width: 0.5, depth:
    0.5, start: slice}`, where it belongs; null = `network` is whole."""

    @model_validator(mode="before")
    @classmethod
    def _name_beside_network(cls, data: Any) -> Any:
        """The job that a slim network names is an input like any other."""
        network = data.get("network") if isinstance(data, Mapping) else None
        if not isinstance(network, Mapping) or "slim_of" not in network:
            return data
        rest = {name: value for name, value in network.items() if name != "slim_of"}
        return {**data, "slim_of": network["slim_of"], "network": {"kind": "slim", **rest}}

    @model_validator(mode="after")
    def _slim_of_a_teacher(self) -> Self:
        if isinstance(self.asked, SlimSpec) != (self.slim_of is not None):
            raise ValueError(
                "a slim network names its teacher, and only that does; write "
                "network: {slim_of: TEACHER, width: ..., depth: ...}"
            )
        return self

    @property
    def asked(self) -> NetworkSpec | None:
        """The network as it is asked for."""
        asked: NetworkSpec | None = getattr(self, "network", None)
        return asked

    def plain(self, inputs: "Mapping[str, Facts]") -> NetworkSpec | None:
        """The network that is asked for, with the numbers of a slim one; None where not known.

        What is wrong with a slim one, `check_source` says.
        """
        asked, known = self.asked, inputs.get("slim_of", Facts()).network
        if not isinstance(asked, SlimSpec):
            return asked
        try:
            return None if known is None else asked.of(known)
        except ValueError:
            return None

    def plain_here(self, handles: "Handles") -> NetworkSpec | None:
        """The same while the job runs."""
        if self.slim_of is None or not isinstance(self.asked, SlimSpec):
            return self.asked
        return self.asked.of(network_of(handles[self.slim_of]))

    def predicts(self, inputs: "Mapping[str, Facts]") -> Parameterisation:
        """What a flow of this network predicts: as its teacher if it is slim, else a velocity."""
        known = inputs.get("slim_of", Facts()).flow
        return _trained(known) if known is not None else Parameterisation()

    def predicts_here(self, handles: "Handles") -> Parameterisation:
        """The same while the job runs."""
        return Parameterisation() if self.slim_of is None else _trained(handles[self.slim_of])

    def one_step(
        self, inputs: "Mapping[str, Facts]", sigma_init: float | None = None
    ) -> NetworkSpec | None:
        """The network of a one-step student, that of `start` or the one asked for; None = unknown.

        Args:
            inputs: facts of the inputs.
            sigma_init: noise level that it begins at; None = the highest of the flow.
        """
        start = inputs.get("start")
        network, how = (
            (self.plain(inputs), self.predicts(inputs))
            if start is None
            else (start.network, start.flow)
        )
        if network is None or how is None:
            return network
        return DenoiserSpec.beginning(network, how, sigma_init)

    def first_weights(self, handles: "Handles") -> Flow | None:
        """What the weights of a slim network are cut out of; None = they are random."""
        random = isinstance(self.asked, SlimSpec) and self.asked.start == "random"
        return None if self.slim_of is None or random else handles[self.slim_of]

    def _check_slim(self, inputs: "Mapping[str, Facts]", source: str, job: str) -> None:
        """Raises FieldError where the network cannot be a slimmer copy of that teacher."""
        teacher = inputs.get("slim_of", Facts())
        if self.slim_of is None or not isinstance(self.asked, SlimSpec):
            return
        if teacher.closed_form:
            what = f"'{self.slim_of.job}' is the closed form of a data set, which has no network"
            raise FieldError("slim_of", what, "name a trained flow, or give a whole network")
        check_space(inputs, "slim_of", source, job)
        wanted = inputs[source].image
        if teacher.image and wanted and teacher.image != wanted:
            what = f"'{self.slim_of.job}' is of {teacher.image}, but '{job}' of {wanted}"
            raise FieldError("slim_of", what, "name a teacher of the same images and classes")
        try:
            if teacher.network is not None:
                self.asked.of(teacher.network)
        except ValueError as error:
            raise FieldError("network", *what_and_fix(error)) from error

    @model_validator(mode="after")
    def _part_of_a_partition(self) -> Self:
        if (self.partition is None) != (self.part is None):
            raise ValueError(
                "partition and part go together: give both, or neither for a student of all labels"
            )
        return self

    def labels(self, handles: "Handles", classes: int) -> tuple[int, ...] | None:
        if self.partition is None or self.part is None:
            return None
        partition = handles[self.partition]
        if partition.conditions != classes:
            raise FieldError(
                "partition",
                f"'{self.partition.job}' splits {partition.conditions} conditions, but there are "
                f"{classes} classes or prompts",
                "make the partition from the same labels",
            )
        if partition.prompts is None:
            return partition.subsets[self.part]
        from slimctl.jobs.storage.texts import part_numbers  # noqa: PLC0415

        return tuple(part_numbers(handles.store, partition, self.part).tolist())

    def student(
        self, made: type[ModelT], handles: "Handles", source: PairSet | Flow, network: NetworkSpec
    ) -> ModelT:
        model = super().student(made, handles, source, network)
        if self.partition is None:
            return model
        partition = handles[self.partition].id
        return model.model_copy(update={"part": self.part, "partition": partition})

    def flow_of(self, handles: "Handles", source: PairSet | Flow) -> Flow:
        """The handle of a flow that is trained, but for its weights: it predicts as it has to."""
        network = self.plain_here(handles)
        assert network is not None
        made = self.student(Flow, handles, source, network)
        how = self.predicts_here(handles)
        return made.model_copy(update={name: getattr(how, name) for name in type(how).model_fields})

    def check_source(
        self,
        inputs: "Mapping[str, Facts]",
        source: tuple[str, str],
        network: NetworkSpec | None,
        flip: bool | None,
    ) -> None:
        """Checks what is known of the input that a student learns from: its field, and its job.

        Raises:
            FieldErrors: everything that does not fit it.
        """
        known = inputs[source[0]]
        check_each(
            Facts(),
            lambda: self._check_part(inputs, *source),
            lambda: self._check_real(inputs, *source),
            lambda: check_flip(flip, known.flip_valid, source[1]),
            lambda: self._check_slim(inputs, *source),
            lambda: check_network(network, known.image),
        )

    def _check_part(self, inputs: "Mapping[str, Facts]", source: str, job: str) -> None:
        """Raises FieldError where there is no such part, or the source has no labels."""
        if self.partition is None or self.part is None:
            return
        image, of_texts = inputs[source].image, inputs[source].text_width is not None
        if image is not None and image.classes == 0 and not of_texts:
            raise FieldError(
                source,
                f"'{job}' is unconditional, so it has no labels to split",
                "set conditional: true at the flow that it comes from, or leave partition out",
            )
        parts = inputs["partition"].parts
        if parts is not None and self.part >= parts:
            raise FieldError(
                "part",
                f"part is {self.part}, but '{self.partition.job}' has {parts} parts",
                f"use 0..{parts - 1}",
            )

    def _check_real(self, inputs: "Mapping[str, Facts]", source: str, job: str) -> None:
        """Raises FieldError where real images, or features, are of other images or classes."""
        known = inputs[source]
        scored = "features" in type(self).model_fields
        for field in ("data", "features"):
            given = inputs.get(field, Facts())
            image, wanted = given.image, known.image if given.latents else known.pixels
            if image is None or wanted is None:
                continue
            unlike = (image.size, image.channels) != (wanted.size, wanted.channels)
            if unlike or (field == "data" and wanted.classes not in (0, image.classes)):
                what = f"its images or classes differ from those of '{job}'"
                fix = "use the data that the teacher was made for"
                raise FieldError(field, what, f"{fix}, and features of it" if scored else fix)


def _trained(how: Parameterisation) -> Parameterisation:
    """What a student predicts as its teacher, whose null class no training of it knows."""
    fields = {name: getattr(how, name) for name in Parameterisation.model_fields}
    return Parameterisation(**fields | {"null_class": None})


class ScoredTrainingSpec(PartTrainingSpec):
    """A training of a student that can be scored by its one-step samples."""

    data: Annotated[Ref[Dataset] | None, SPEED_ONLY] = None
    """Real images that one-step samples are compared with in training; null = no scores. They only
    measure: the result is the same without them."""
    features: Annotated[Ref[FeatureNet] | None, SPEED_ONLY] = None
    """Feature network of the score, a kernel distance (KID); null = sliced Wasserstein of
    pixels."""
    score_every: Annotated[int, Field(ge=1), SPEED_ONLY] = 100
    """Steps between two scores, where there is `data`."""
    score_samples: Annotated[int, Field(ge=2), SPEED_ONLY] = 500
    """Samples of a score."""

    @model_validator(mode="after")
    def _scored_on_data(self) -> Self:
        if self.features is not None and self.data is None:
            raise ValueError(
                "features are for the score, which compares with real images: name them as data, "
                "or leave features out"
            )
        return self

    def watch(self, handles: "Handles", student: Flow | Generator) -> "Watch | None":
        from slimctl.jobs.storage.texts import marginal_of  # noqa: PLC0415
        from slimctl.jobs.training.captions import shown_classes  # noqa: PLC0415
        from slimctl.jobs.training.evaluator import Evaluator, Watch  # noqa: PLC0415

        if self.data is None:
            return None
        evaluator = Evaluator(
            handles.store,
            handles[self.data],
            handles[self.features] if self.features else None,
            shown_classes(handles.store, student, self.labels(handles, student.conditions)),
            marginal_of(handles.store, student),
            student.image,
            student.t_start,
            self.score_samples,
            self.seed or 0,
            "kernel",
            student.autoencoder,
        )
        return Watch(evaluator, self.score_every)


def restricted(counts: "Sequence[int]", labels: tuple[int, ...] | None) -> tuple[int, ...]:
    """Label counts that are 0 for all but the given labels; None leaves them as they are."""
    return tuple(n if labels is None or label in labels else 0 for label, n in enumerate(counts))


def marginal(of: PairSet | Flow, labels: tuple[int, ...] | None) -> "Marginal":
    """The labels of a flow or of its pairs as they are drawn: all, or the given ones only."""
    if of.prompts is None:
        return restricted(of.label_counts, labels)
    import torch  # noqa: PLC0415

    from slimctl.models.conditions import Among  # noqa: PLC0415

    return Among(of.prompts.count, None if labels is None else torch.tensor(labels))


def check_images(
    inputs: "Mapping[str, Facts]", source: str, job: str, fields: tuple[str, ...]
) -> None:
    """Checks that models and pairs, where they are known, are of the images of what is learned.

    Raises:
        FieldError: those of a field differ.
    """
    wanted = inputs[source].image
    for field in fields:
        check_space(inputs, field, source, job)
        image = inputs[field].image if field in inputs else None
        if image and wanted and image != wanted:
            raise FieldError(
                field,
                f"its images or classes differ from those of '{job}': {image}, not {wanted}",
                "use models and pairs of the same image shape and classes",
            )


def training_work(
    network: NetworkSpec | None, image: ImageShape | None, samples: float
) -> Work | None:
    """Work of training a network on so many samples; None where it or its images are not known."""
    if network is None or image is None:
        return None
    size = network_size(network, image)
    return Work(size.parameters, size.macs, TRAINING * size.macs * samples)
