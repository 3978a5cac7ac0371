"""Distils a one-step generator by matching distributions (multi-student distillation, 1 and 2)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from slimctl.jobs.base.artifacts import Dataset, FeatureNet, Flow, Generator, LatentSet, PairSet
from slimctl.jobs.base.cluster import FORWARD, THROUGH, TRAINING, Work
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, FieldError, check_each, check_space
from slimctl.jobs.base.guidance import GuidedJobSpec
from slimctl.jobs.base.networks import network_of
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.training.critic import CriticSpec, check_critic
from slimctl.jobs.training.distances import (
    ImageDistance,
    check_content,
    check_distance,
    distance_macs,
    fingerprint,
    require_weights,
)
from slimctl.jobs.training.memory import Frozen, Load, image_bytes, pair_bytes
from slimctl.jobs.training.spec import Decay, PartTrainingSpec, check_images, training_work
from slimctl.models.flows.spec import (
    AdversarialSpec,
    DMD2Objective,
    FDistillObjective,
    L2Distance,
    MatchingObjective,
    SiDObjective,
    TimeDensity,
    UIDObjective,
    UniformTime,
)
from slimctl.models.networks.denoiser.spec import DenoiserSpec
from slimctl.models.networks.registry import AnyNetworkSpec
from slimctl.models.networks.size import network_size
from slimctl.models.spec import ADDED

if TYPE_CHECKING:
    from slimctl.jobs.base.context import Handles
    from slimctl.jobs.training.evaluator import Scores

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "sid": {
        "time": {"kind": "karras", "low": 0.0, "high": 0.8},
        "fake_time": {"kind": "log_normal"},
        "fake_weight": "edm",
        "fake_updates": 1,
        "adam_betas": (0.0, 0.999),
    },
    "uid": {"time": {"kind": "uniform"}, "adam_betas": (0.0, 0.999)},
    "f_distill": {"time": {"kind": "karras"}, "fake_weight": "edm"},
}
"""What an objective's own paper or code sets, for the fields that are left out."""


class MatchDistribution(GuidedJobSpec, PartTrainingSpec):
    """A one-step generator whose samples follow the teacher's distribution.

    The student moves along the difference of the teacher and a score network, which learns the
    flow of what the student makes. Either pairs steady it (DMD), or the score network takes several
    steps for each of its own (DMD2); `adversarial` adds a critic to it (stage 2). `objective`
    chooses another step than DMD2's: score identity distillation (`sid`, `uid`), whose gradient
    goes through both flows, or DMD2's weighted by the critic (`f_distill`). The losses say nothing
    about quality, so the best of the averaged weights is kept by a score on few samples; the start
    is scored too.

    Source:
        Song et al., Multi-student distillation, arXiv 2410.23274, with time turned round (here
        t = 0 is noise); the objectives name their own.
    """

    version: ClassVar[int] = 4

    teacher: Ref[Flow]
    """The flow whose distribution is wanted."""
    start: Ref[Flow | Generator] | None = None
    """What the student starts from: a matched teacher, a reflowed student, or a generator; null =
    random weights."""
    network: AnyNetworkSpec | None = None
    """Architecture of the student where there is no `start`."""
    sigma_init: Annotated[Annotated[float, Field(gt=0, le=1000)] | None, ADDED] = None
    """Noise level that the student takes its noise for where it starts from a flow, of any
    prediction; SiD has 2.5. null = where that flow begins: it adds a velocity to pure noise, at
    t = 0, or begins at the highest level of a flow that predicts noise, images or v."""
    data: Ref[Dataset | LatentSet]
    """Real images for the score, `adversarial` and `critic`; with a partition those of its part. A
    teacher of latents is scored by images or by latents, and `adversarial` takes latents."""
    fake: Ref[Flow] | None = None
    """Flow that the score network (the papers' fake one) starts from; null = the teacher."""
    objective: Annotated[MatchingObjective, ADDED] = DMD2Objective()
    """What the student minimises: `dmd2`, `sid`, `uid` or `f_distill`. All but dmd2 bring settings
    of their own for fields that are left out, which their pages name."""
    pairs: Ref[PairSet] | None = None
    """The teacher's pairs, of all labels, for the regression of DMD; null = DMD2."""
    pair_weight: float = Field(default=0.25, gt=0)
    """Weight of the regression on pairs."""
    pair_batch: int | None = Field(default=None, ge=1)
    """Pairs per step; null = batch_size."""
    distance: ImageDistance = L2Distance()
    """Distance between images in the regression."""
    fake_updates: int | None = Field(default=None, ge=1, le=1000)
    """Steps of the score network before each of the student; null = 1 with pairs, 5 without."""
    fake_learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Learning rate of the score network; null = learning_rate."""
    fake_adam_betas: Annotated[tuple[Decay, Decay] | None, ADDED] = None
    """Decay rates of the two moments of the score network's Adam; null = adam_betas."""
    fake_adam_epsilon: Annotated[Annotated[float, Field(gt=0)] | None, ADDED] = None
    """Epsilon of the score network's Adam; null = adam_epsilon."""
    fake_time: Annotated[TimeDensity | None, ADDED] = None
    """Density of the flow times that the score network trains on; null = that of `time` over its
    whole range. EDM's and SiD's is `{kind: log_normal}`."""
    fake_weight: Annotated[Literal["velocity", "edm"], ADDED] = "velocity"
    """Weight of a time in the score network's loss: of velocities 1, or EDM's t^2 + 4 (1 - t)^2."""
    time: TimeDensity = UniformTime(low=0.02, high=0.98)
    """Density of the flow times at which the flows are compared: sigma 0.02..49, quartiles 0.35,
    1.0 and 2.8; `{kind: karras}` is DMD2's, sigma 0.0032..72, quartiles 0.19, 2.5 and 16.6."""
    adversarial: AdversarialSpec | None = None
    """Weights of the adversarial term, `{}` for the paper's; null = without."""
    adversarial_time: Annotated[TimeDensity | None, ADDED] = None
    """Density of the flow times at which images are judged, with noise of their own, as DMD2's code
    has it; null = the times and the noise of the comparison, and of the score network's loss."""
    critic: Annotated[CriticSpec | None, ADDED] = None
    """A small critic of images beside or in place of `adversarial`, `{}` for its defaults; null =
    without."""
    features: Ref[FeatureNet] | None = None
    """Feature network of the score, a Fréchet distance; null = sliced Wasserstein of pixels."""
    judge_features: Annotated[Ref[FeatureNet] | None, ADDED] = None
    """The same by the name that says that it chooses the weights: a feature network that no
    evaluation reports by; null = `features`."""
    score_every: int = Field(default=100, ge=1)
    """Steps between two scores."""
    score_samples: int = Field(default=1000, ge=2)
    """Samples of a score."""
    flip: bool | None = None
    """Whether to mirror pairs and real images at random; null = where flips are valid."""

    @model_validator(mode="before")
    @classmethod
    def _of_objective(cls, data: Any) -> Any:
        """Fills what is left out with the settings of the objective's own paper or code."""
        asked = data.get("objective") if isinstance(data, Mapping) else None
        kind = asked.get("kind") if isinstance(asked, Mapping) else getattr(asked, "kind", None)
        settings = SETTINGS.get(kind) if isinstance(kind, str) else None
        return data if settings is None else {**settings, **data}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        noised = self.critic is not None and self.critic.time is not None
        if isinstance(self.objective, FDistillObjective) and not (self.adversarial or noised):
            which = (
                "of images with noise, and there is none" if self.critic else "and there is none"
            )
            raise ValueError(
                f"objective f_distill weighs samples by a critic, {which}; add adversarial: {{}} "
                "or critic: {time: {kind: karras}}, or use objective: {kind: dmd2}"
            )
        if self.adversarial is None and self.adversarial_time is not None:
            raise ValueError(
                "adversarial_time is the critic's, and there is none; add adversarial: {}, or "
                "leave it out"
            )
        if self.features is not None and self.judge_features is not None:
            raise ValueError(
                "features and judge_features both choose the weights: give one, judge_features"
            )
        if self.sigma_init is not None and self.start is None and self.slim_of is None:
            raise ValueError("sigma_init is of a flow to start from: name it as start")
        if (self.start is None) == (self.network is None):
            raise ValueError("give either start (a model to begin from) or network, not both")
        if self.pairs is None and self.pair_batch is not None:
            raise ValueError("pair_batch needs pairs: name the teacher's, or leave it out")
        return self

    @property
    def judge(self) -> Ref[FeatureNet] | None:
        """The feature network of the score; None = pixels."""
        return self.judge_features or self.features

    def chooses_by(self) -> tuple[str, ...]:
        return () if self.judge is None else (self.judge.job,)

    def batches(self) -> dict[str, int]:
        pairs = {} if self.pair_batch is None else {"pair_batch": self.pair_batch}
        return super().batches() | pairs

    def run(self, context: JobContext) -> Generator:
        from slimctl.jobs.objectives.match_distribution import DistributionMatching
        from slimctl.jobs.training.perceptual import prepare_distance
        from slimctl.jobs.training.ray_train import train_model

        teacher = self.prompted(context.handles, context.input(self.teacher))
        _warn_of_small_critic(context, teacher, context.input(self.fake or self.teacher))
        prepare_distance(context, self.distance)
        objective = DistributionMatching(self, context.handles)
        student = self.made(context.handles)
        start = context.input(self.start) if self.start else self.first_weights(context.handles)
        made, trained = train_model(context, self, objective, student, start)
        judge = context.input(self.judge).id if self.judge else ""
        _note_scores(context, trained.scores, judge or "pixels")
        return made.model_copy(update={"chosen_by": judge})

    def made(self, handles: "Handles") -> Generator:
        """The handle of the result, but for its weights."""
        start = handles[self.start] if self.start else None
        network = network_of(start) if start else self.plain_here(handles)
        assert network is not None
        how = start if isinstance(start, Flow) else self.predicts_here(handles)
        if not isinstance(start, Generator):
            network = DenoiserSpec.beginning(network, how, self.sigma_init)
        teacher = self.prompted(handles, handles[self.teacher])
        student = self.student(Generator, handles, teacher, network)
        if start is None or isinstance(network, DenoiserSpec):
            return student
        return student.model_copy(update={"t_start": start.t_start})

    def updates(self) -> int:
        """Steps of the fake network before each of the student."""
        return self.fake_updates or (1 if self.pairs else 5)

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(self.distance)

    def preflight(self) -> Facts | None:
        check_content(self.distance)
        return None

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        known = inputs["teacher"]
        made = Facts(
            image=known.image,
            flip_valid=known.flip_valid,
            latents=known.latents,
            part=self.part,
            network=self.one_step(inputs, self.sigma_init),
            text_width=(inputs["prompts"] if self.prompts else known).text_width,
        )
        own = made.network if self.start is None else None  # that of a start is checked there
        return check_each(
            made,
            lambda: self.check_source(inputs, ("teacher", self.teacher.job), own, self.flip),
            lambda: check_distance(self.distance, known),
            lambda: check_images(inputs, "teacher", self.teacher.job, ("start", "fake", "pairs")),
            lambda: self._check_judged(inputs),
            lambda: self._check_start(inputs),
            lambda: self._check_fake(inputs),
            lambda: check_critic(self.critic, known),
            lambda: self.check_guidance(inputs, "teacher", self.teacher.job),
            lambda: require_weights(self.distance, made),
        )

    def _check_judged(self, inputs: "Mapping[str, Facts]") -> None:
        """Raises FieldError where real images are judged in another space than the student's."""
        if self.adversarial is not None:
            check_space(inputs, "data", "teacher", self.teacher.job)

    def _check_start(self, inputs: "Mapping[str, Facts]") -> None:
        if self.start is None:
            return
        start, job = inputs["start"], self.start.job
        if start.closed_form:
            what = f"'{job}' is the closed form of a data set, which has no weights"
            raise FieldError("start", what, "start from a trained flow, such as a match_teacher")
        if self.sigma_init is not None and start.made == Generator.__name__:
            what = f"'{job}' is a generator, which has a beginning of its own"
            raise FieldError("sigma_init", what, "leave it out, or start from a flow")

    def _check_fake(self, inputs: "Mapping[str, Facts]") -> None:
        fake = self.fake or self.teacher
        if inputs["fake" if self.fake else "teacher"].closed_form:
            what = f"'{fake.job}' is the closed form of a data set, which cannot be trained"
            fix = "name a trained flow as fake, such as a match_teacher of all labels"
            raise FieldError("fake", what, fix)

    def load(self, inputs: "Mapping[str, Facts]") -> Load | None:
        image, network = inputs["teacher"].image, self.one_step(inputs, self.sigma_init)
        teacher = inputs["teacher"].network
        fake = inputs["fake"].network if self.fake else teacher
        if image is None or network is None or teacher is None or fake is None:
            return None
        weaker = inputs.get("weaker", Facts()).network
        answering = [teacher] if weaker is None else [teacher, weaker]
        judged = self.adversarial is not None
        batches = 1 + judged + (self.adversarial_time is not None)
        both = isinstance(self.objective, (SiDObjective, UIDObjective))
        pairs = (self.pair_batch or self.batch_size) if self.pairs else 0
        data = pair_bytes(image, inputs["pairs"].count) if self.pairs else 0
        return Load(
            network,
            image,
            self.batch_size + pairs,
            tuple(Frozen(each, self.batch_size, beside=True) for each in answering),
            fake,
            self.batch_size * batches,
            (teacher, fake) if both else (fake,) if judged else (),
            self.batch_size,
            self.distance,
            data + (image_bytes(image, inputs["data"].count) if judged or self.critic else 0),
            copies=2,
            critic=self.critic.network if self.critic else None,
            critic_batch=2 * self.batch_size,
        )

    def work(self, inputs: "Mapping[str, Facts]") -> Work | None:
        image = inputs["teacher"].image
        pairs = (self.pair_batch or self.batch_size) if self.pairs else 0
        made = training_work(
            self.one_step(inputs, self.sigma_init), image, self.steps * (self.batch_size + pairs)
        )
        known = inputs["teacher"].network, inputs["fake" if self.fake else "teacher"].network
        if made is None or image is None:
            return None
        if known[0] is None or known[1] is None:
            left_out = ("teacher and fake network are not counted: not known before they run",)
            return Work(made.parameters, made.macs, made.flop, left_out)
        teacher, fake = network_size(known[0], image).macs, network_size(known[1], image).macs
        judged = self.adversarial is not None  # real images beside the student's, and a gradient
        batches = 1 + judged + (self.adversarial_time is not None)
        through = isinstance(self.objective, (SiDObjective, UIDObjective))
        each: float = (THROUGH if through else FORWARD) * (self.costs * teacher + fake)
        each += THROUGH * fake if judged else 0
        each += self.updates() * (FORWARD * made.macs + TRAINING * fake * batches)
        each += self.critic.flop(image, made.macs) if self.critic else 0
        flop = made.flop + each * self.steps * self.batch_size
        flop += distance_macs(self.distance, image) * (THROUGH + FORWARD) * self.steps * pairs
        return Work(made.parameters, made.macs, flop, ("scores are not counted",))


def _warn_of_small_critic(context: JobContext, teacher: Flow, fake: Flow) -> None:
    """Warns of a fake network with fewer parameters than the teacher's."""
    if fake.parameters >= teacher.parameters:
        return
    context.warn(
        f"the fake network has {fake.parameters:,} parameters, the teacher {teacher.parameters:,}: "
        "a critic smaller than the teacher cannot follow the student's distribution as closely as "
        "the teacher knows its own, the difference of the two then points away from the data, and "
        "the student collapses; leave fake out, or name a flow of the teacher's size"
    )


def _note_scores(context: JobContext, scores: "Scores | None", taken_on: str) -> None:
    """Notes the scores with the artifact, and warns if nothing was better than the start."""
    assert scores is not None  # distribution matching always scores
    context.engine |= {
        "score": taken_on,
        "start_score": scores.start,
        "best_score": scores.best,
        "best_step": scores.best_step,
        "last_score": scores.last,
    }
    context.log(
        f"score on {taken_on}: start {scores.start:.4g}, best {scores.best:.4g} after step "
        f"{scores.best_step}, last {scores.last:.4g}"
    )
    if scores.best_step == 0:
        context.warn(
            f"no weights scored better than the start ({scores.start:.4g}), which is the result: "
            "train longer, lower learning_rate, or raise fake_updates"
        )
