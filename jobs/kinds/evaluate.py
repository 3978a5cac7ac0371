"""Measures the quality and the cost of a flow (with a solver), a generator or a fleet."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from slimctl.jobs.base.artifacts import (
    Autoencoder,
    Dataset,
    FeatureNet,
    Fleet,
    Flow,
    Generator,
    Partition,
    QualityReport,
    StepGrid,
)
from slimctl.jobs.base.cluster import FORWARD, Cluster, Needs, Range, Work, range_mistake
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError, what_and_fix
from slimctl.jobs.base.facts import Facts, FieldError, MissingFile, SpecWarning, check_each
from slimctl.jobs.base.guidance import GuidedJobSpec
from slimctl.jobs.base.memory import Memory, sampling_memory
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.solvers import asked_nfe, check_solver, fitted_solver
from slimctl.jobs.base.spec import BY_CONTENT, SPEED_ONLY, Placement, SeededJobSpec
from slimctl.jobs.evaluation.shards import shards_of
from slimctl.models.metrics import added, requested
from slimctl.models.networks.autoencoder.spec import decoder_size
from slimctl.models.networks.size import network_size
from slimctl.models.solvers.spec import SolverSpec
from slimctl.models.spec import ADDED, SamplingPrecision

if TYPE_CHECKING:
    from slimctl.models.spec import ImageShape

FEWEST_IMAGES = 4
"""The kernel distance needs two subsets of two."""
FEW_IMAGES = 100
"""Below this a Fréchet distance says much of which images were drawn: of digits' pixels (61
dimensions) 100 images are 7 % of the variance away from all 1797, 60 are 12 % and 1000 are 0.3 %
(means of 20 draws)."""
EXAMPLE = "solver: {kind: euler, steps: 50}"


class Evaluate(GuidedJobSpec, SeededJobSpec):
    """Quality of a model's samples, and cost of its network.

    FID, KID, precision, recall, straightness, distance to the data; parameters, multiply-adds,
    latency.
    """

    version: ClassVar[int] = 3

    model: Ref[Flow | Generator | Fleet]
    """What to measure."""
    data: Ref[Dataset]
    """Real images to compare with, pixels also where the model makes latents."""
    features: Ref[FeatureNet]
    """Feature network of the Fréchet and kernel distances."""
    partition: Ref[Partition] | None = None
    """Split of the labels by which quality is reported too; null = the fleet's, if it is one."""
    solver: SolverSpec | Ref[StepGrid] | None = None
    """How a flow, or a fleet of flows, is sampled, or the job that fitted a solver; must be null
    for one-step generators."""
    samples: int = Field(default=5000, ge=2)
    """Samples of a draw; papers' FIDs are of 50 000."""
    draws: int = Field(default=1, ge=1, le=100)
    """Independent draws; the lowest FID counts (papers often give the lowest of 3), and all of them
    are in the report."""
    reference: Annotated[str | None, BY_CONTENT] = None
    """Statistics to take the FID against: .npz with `mu` and `sigma` (clean-fid, EDM), of the same
    feature network; null = the images of `data`."""
    batch_size: int = Field(default=500, ge=1)
    """Samples made at once."""
    precision: Annotated[SamplingPrecision, ADDED] = "float32"
    """Of the products of the model's network while it samples; float16 rounds as finely as a GPU's
    float32 (TF32) does, bfloat16 eight times as coarsely."""
    decoder: Annotated[Ref[Autoencoder] | None, ADDED] = None
    """What decodes the latents of the model, such as an AutoencoderTiny; null = the autoencoder
    that they are of."""
    ema: Annotated[Annotated[float, Field(gt=0, le=0.28)] | None, ADDED] = None
    """Length of the average of the model's weights over its training, made from the snapshots that
    `ema_profiles` keeps; null = the weights as they are."""
    neighbours: int = Field(default=5, ge=1)
    """Nearest neighbours that span the manifold of precision and recall; 5 as arXiv 2002.09797
    recommends for thousands of images (arXiv 1904.06991 takes 3 for 50 000)."""
    manifold_samples: int = Field(default=10_000, ge=2)
    """Samples, and as many real images, that KID, precision, recall and the figures by class and
    part are of, at most; a class or part has figures from 20 of each on."""

    metrics: Annotated[tuple[str, ...], ADDED] = ()
    """Further metrics: fd_infinity, fid_kept (the FID of `manifold_samples`, with its interval over
    samples, by which `compare` pairs models of one seed), density, coverage."""

    actors: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)] | Range, SPEED_ONLY] = "auto"
    """Actors that make and measure the samples; auto = one for each 2500 samples of a draw, up to
    one per GPU; without GPUs, or for fewer samples, the job does it itself. {min, max} = as many of
    them as the cluster has at the time."""

    def wants_gpu(self) -> bool:
        return True

    def run(self, context: JobContext) -> QualityReport:
        from slimctl.jobs.evaluation.draws import Evaluation
        from slimctl.jobs.evaluation.pool import measure_on_pool
        from slimctl.jobs.evaluation.quality import measure

        data, features = context.input(self.data), context.input(self.features)
        for warning in self.warnings({"data": data.facts(), "features": features.facts()}):
            context.warn(f"{warning.field}: {warning.what}; {warning.fix}")
        evaluation = Evaluation(
            store=context.store,
            artifact_id=context.artifact_id,
            spec=self,
            model=self._averaged(self._asked(context)),
            data=data,
            features=features,
            partition=context.input(self.partition) if self.partition else None,
            solver=None if self.solver is None else fitted_solver(context, self.solver),
            guidance=self.guided(context.handles),
            decoder=context.input(self.decoder) if self.decoder else None,
        )
        if self.placed(context.cluster) == "shared":
            return measure(context, evaluation)
        needs = self.needs(context.cluster)
        most = self.actors.max if isinstance(self.actors, Range) else needs.parts
        return measure_on_pool(context, evaluation, needs, most)

    def _asked(self, context: JobContext) -> Flow | Generator | Fleet:
        """The model with the prompts that it is asked for."""
        model = context.input(self.model)
        if isinstance(model, Fleet):
            self._check_fleet(model.facts())
            return model
        if isinstance(model, Flow):
            return self.prompted(context.handles, model)
        return self.prompted(context.handles, model)

    def _check_fleet(self, model: Facts) -> None:
        """Raises FieldError for prompts of a fleet's, whose parts are of its own prompts."""
        if self.prompts is not None and model.made == Fleet.__name__:
            what = f"'{self.model.job}' is a fleet, which is measured on the prompts it split"
            raise FieldError("prompts", what, "leave prompts out, or evaluate a single model")

    def placed(self, cluster: Cluster) -> Placement:
        return "own" if self._most_actors(cluster) > 1 else "shared"

    def needs(self, cluster: Cluster) -> Needs:
        """Of each actor what a job that does it itself needs."""
        alone = super().needs(cluster)
        chosen = self.actors.min if isinstance(self.actors, Range) else self._most_actors(cluster)
        actors = max(1, min(chosen, self._shards(), cluster.room(alone.part)))
        return Needs(actors * alone.cpus, actors * alone.gpus, parts=actors)

    def _most_actors(self, cluster: Cluster) -> int:
        if isinstance(self.actors, Range):
            return self.actors.max
        wanted = cluster.gpus if self.actors == "auto" else self.actors
        return min(wanted, self._shards(), cluster.room(super().needs(cluster).part))

    def _shards(self) -> int:
        return len(shards_of(self.samples, self.draws, self.batch_size))

    def _check_metrics(self) -> None:
        known = requested()
        for name in self.metrics:
            if name not in known:
                close = get_close_matches(name, known, 1)
                fix = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
                raise FieldError("metrics", f"there is no further metric '{name}'", fix)

    def _check_actors(self) -> None:
        if mistake := range_mistake(self.actors):
            raise FieldError("actors", mistake, "swap them")

    def _averaged(self, model: Flow | Generator | Fleet) -> Flow | Generator | Fleet:
        """The model with the average of its weights that is asked for."""
        if self.ema is None:
            return model
        averages = None if isinstance(model, Fleet) else model.averages
        if averages is None:
            raise UserError(model.id, *_no_averages(self.model.job))
        wanted = averages.model_copy(update={"wanted": self.ema})
        return model.model_copy(update={"averages": wanted})

    def _check_averages(self, model: Facts) -> None:
        if self.ema is not None and model.averaged is False:
            raise FieldError("ema", *_no_averages(self.model.job))

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        model, data, features = inputs["model"], inputs["data"], inputs["features"]
        return check_each(
            Facts(),
            self._check_actors,
            self._check_metrics,
            lambda: self._check_part(model),
            lambda: self._check_solver(model),
            lambda: self._check_averages(model),
            lambda: self._check_fleet(model),
            lambda: self.check_guidance(inputs, "model", self.model.job),
            lambda: self._check_pixels("model", model.pixels, data),
            lambda: self._check_pixels("features", features.image, data),
            lambda: self._check_decoder(model, inputs.get("decoder", Facts())),
            lambda: self._check_intake(features, data.image),
            lambda: self._check_samples("samples", self.samples),
            lambda: self._check_samples("manifold_samples", self.manifold_samples),
            lambda: self._check_real(data.count),
            lambda: self._check_reference(features.dimensions),
        )

    def warnings(self, inputs: Mapping[str, Facts]) -> list[SpecWarning]:
        """Sets of too few images for a Fréchet distance, and features that chose the model."""
        width = inputs["features"].dimensions
        fix = "; KID is not biased by few"
        found = []
        if self.features.job in inputs.get("model", Facts()).chosen_by:
            what = f"'{self.features.job}' also chose the weights of '{self.model.job}', whose FID"
            what += " and KID by it are flattered"
            more = "choose by another feature network (judge_features), or measure by another"
            found.append(SpecWarning("features", what, more))
        if self.reference is None and (real := _few(inputs["data"].count, width)):
            what = f"'{self.data.job}' has {real}, and a FID against them says little"
            more = f"compare with {_enough(width)} images or more, better thousands{fix}"
            found.append(SpecWarning("data", what, more))
        if drawn := _few(self.samples, width, "samples"):
            what = f"a draw has {drawn}, and their FID says little"
            more = f"make samples {_enough(width)} or more, better thousands{fix}"
            found.append(SpecWarning("samples", what, more))
        return found

    def memory(
        self, inputs: Mapping[str, Facts], cluster: Cluster, limit: int | None
    ) -> Memory | None:
        model = inputs["model"]
        return sampling_memory(model.network, model.image, min(self.batch_size, self.samples))

    def work(self, inputs: Mapping[str, Facts]) -> Work | None:
        model, features = inputs["model"], inputs["features"]
        if model.network is None or model.image is None:
            return None
        size = network_size(model.network, model.image)
        nfe, assumed = (1.0, None) if self.solver is None else asked_nfe(self.solver, inputs)
        if nfe is None:
            return None
        samples = self.samples * self.draws
        flop = FORWARD * (size.macs * nfe * self.costs + self._decoding(inputs)) * samples
        notes = [assumed] if assumed else []
        if features.feature_macs is None:
            notes.append(f"the features of '{self.features.job}' are not counted")
        else:
            seen = samples + (inputs["data"].count or 0)
            flop += FORWARD * features.feature_macs * seen
        return Work(size.parameters, size.macs, flop, tuple(notes))

    def _decoding(self, inputs: Mapping[str, Facts]) -> int:
        """Multiply-adds of decoding one sample."""
        image, space = inputs["model"].image, inputs["model"].latents
        space = inputs["decoder"].latents if self.decoder else space
        return 0 if image is None or space is None else decoder_size(space.autoencoder, image).macs

    def fingerprint(self) -> dict[str, str]:
        return {**super().fingerprint(), **added(self.metrics)}

    def preflight(self) -> Facts | None:
        if self.reference is not None:
            from slimctl.jobs.evaluation.statistics_file import read_statistics

            read_statistics(Path(self.reference))
        return None

    def _check_part(self, model: Facts) -> None:
        if model.part is not None:
            raise FieldError(
                "model",
                f"'{self.model.job}' serves part {model.part} of the labels only",
                "evaluate the fleet of all parts (kind: assemble_fleet): its report has each part",
            )

    def _check_solver(self, model: Facts) -> None:
        one_step = model.one_step if model.made == Fleet.__name__ else model.made != Flow.__name__
        if model.made and one_step is not None and one_step == (self.solver is not None):
            raise FieldError("solver", *self._solver_problem(not one_step))
        if self.solver is not None:
            check_solver(self.solver, model.flow, self.model.job)

    def _solver_problem(self, is_flow: bool) -> tuple[str, str]:
        if is_flow:
            return f"'{self.model.job}' is a flow and needs a solver", "add e.g. " + EXAMPLE
        return f"'{self.model.job}' makes images in one step and takes no solver", "remove solver"

    def _check_pixels(self, field: str, image: "ImageShape | None", data: Facts) -> None:
        if image and data.image and _pixels(image) != _pixels(data.image):
            raise FieldError(
                field,
                f"its images are {_pixels(image)}, those of '{self.data.job}' "
                f"{_pixels(data.image)}",
                "compare images of one shape",
            )

    def _check_decoder(self, model: Facts, decoder: Facts) -> None:
        """The decoder is for such latents, and makes images of the same size."""
        if self.decoder is None or decoder.latents is None or model.image is None:
            return
        if model.latents is None:
            what = f"'{self.model.job}' makes pixels, and there is nothing to decode"
            raise FieldError("decoder", what, "leave decoder out")
        own, space = model.latents.autoencoder, decoder.latents.autoencoder
        try:
            space.require_latents(model.image)
        except ValueError as error:
            what, fix = what_and_fix(error)
            raise FieldError("decoder", f"'{self.decoder.job}' {what}", fix) from error
        if (space.factor, space.image_channels) != (own.factor, own.image_channels):
            what = f"'{self.decoder.job}' makes other images: {_pixels(space.pixels(model.image))}"
            raise FieldError("decoder", what, "name one that makes images of the same size")

    def _check_intake(self, features: Facts, image: "ImageShape | None") -> None:
        if image and features.intake and not features.intake.takes(image):
            raise FieldError(
                "features",
                f"'{self.features.job}' takes {features.intake}, those of '{self.data.job}' are "
                f"{_pixels(image)}",
                "use a feature network for such images, or bring the images into its shape with "
                "size and channels of load_dataset",
            )

    def _check_reference(self, dimensions: int | None) -> None:
        """The file is there and of as many features as the network makes."""
        if self.reference is None:
            return
        from slimctl.jobs.evaluation.statistics_file import statistics_width

        path = Path(self.reference).expanduser()
        if not path.is_file():
            what = f"there is no file '{self.reference}'"
            raise MissingFile("reference", what, "name an .npz with mu and sigma, or leave it out")
        try:
            width = statistics_width(path)
        except UserError as error:
            raise FieldError("reference", f"'{self.reference}' {error.what}", error.fix) from error
        if dimensions not in (None, width):
            raise FieldError(
                "reference",
                f"'{self.reference}' has statistics of {width} features, '{self.features.job}' "
                f"makes {dimensions}",
                "use statistics of the same feature network",
            )

    @property
    def _fewest(self) -> int:
        return max(FEWEST_IMAGES, self.neighbours + 1)

    def _check_samples(self, field: str, given: int) -> None:
        if given < self._fewest:
            raise FieldError(
                field,
                f"{given} samples are too few with neighbours {self.neighbours}",
                f"make {field} {self._fewest} or more",
            )

    def _check_real(self, count: int | None) -> None:
        if count is not None and count < self._fewest:
            raise FieldError(
                "data",
                f"'{self.data.job}' has only {count} images, too few with neighbours "
                f"{self.neighbours}",
                f"compare with {self._fewest} images or more",
            )


def _no_averages(job: str) -> tuple[str, str]:
    return (
        f"'{job}' keeps no averages of other lengths",
        "set ema_profiles: [0.05, 0.1] at its training, or leave ema out",
    )


def _enough(width: int | None) -> int:
    """The fewest images that are not few: their covariance has full rank."""
    return max(FEW_IMAGES, (width or 0) + 1)


def _few(count: int | None, width: int | None, name: str = "images") -> str:
    """`60 images`, and what is wrong with so few; "" if they are not few, or not counted yet."""
    if count is None or count >= _enough(width):
        return ""
    if width is not None and count <= width:
        return f"only {count} {name} for {width} features, so that their covariance is singular"
    return f"only {count} {name}"


def _pixels(image: "ImageShape") -> str:
    return f"{image.size} x {image.size} x {image.channels}"
