"""Distils a one-step generator from pairs and a guide (SlimFlow, stage 2)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from slimctl.jobs.base.artifacts import Flow, Generator, PairSet
from slimctl.jobs.base.cluster import FORWARD, THROUGH, Work
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, FieldError, check_each
from slimctl.jobs.base.networks import network_of
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import SPEED_ONLY
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
from slimctl.jobs.training.spec import ScoredTrainingSpec, check_images, training_work
from slimctl.models.flows.spec import L2Distance
from slimctl.models.networks.denoiser.spec import DenoiserSpec
from slimctl.models.networks.registry import AnyNetworkSpec
from slimctl.models.networks.size import network_size
from slimctl.models.spec import ADDED

if TYPE_CHECKING:
    from slimctl.jobs.base.context import Handles

RecipeName = Literal["slimflow", "slimflow_huber"]

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "slimflow": {"pair_weight": 1.0, "two_step_weight": 1.0, "distance": {"kind": "l2"}},
    "slimflow_huber": {"pair_weight": 1.0, "two_step_weight": 0.3, "distance": {"kind": "huber"}},
}
"""`slimflow`: the weights of arXiv 2407.12718, section 4, whose distance is LPIPS where its weight
files are at hand. `slimflow_huber`: what did best on digits at equal size and equal steps
(benchmarks/README.md)."""


class Distill(ScoredTrainingSpec):
    """Flow-guided distillation: pairs, and the guide's two-step samples of fresh noise.

    L = pair_weight D(x0 + v(x0, 0), x1) + two_step_weight D(x0 + v(x0, 0), target), where the
    target follows the student's own first half-step with the guide's second.

    Source:
        SlimFlow, arXiv 2407.12718, eq. 11-13, with time turned round (here t = 0 is noise).
    """

    version: ClassVar[int] = 2

    pairs: Ref[PairSet]
    """Noise-image pairs of the teacher."""
    part_pairs: bool = True
    """Whether a student of a part learns from the pairs of its labels only: they are its data."""
    start: Ref[Flow | Generator] | None = None
    """Flow or generator whose network and weights the student starts from; null = random
    weights."""
    network: AnyNetworkSpec | None = None
    """Architecture of the student where there is no `start`."""
    guide: Ref[Flow] | None = None
    """Frozen flow of the two-step term."""
    pair_weight: float = Field(default=1.0, ge=0)
    """Weight of the pair term."""
    two_step_weight: float = Field(default=1.0, ge=0)
    """Weight of the two-step term; needs a guide unless 0."""
    two_step_batch: int | None = Field(default=None, ge=1)
    """Fresh noises per step for the two-step term; null = batch_size."""
    two_step_times: tuple[float, float] = (0.2, 0.8)
    """Range of the flow time at which the guide takes over, in (0, 1)."""
    distance: ImageDistance = L2Distance()
    """Distance between images in both terms; `lpips` and `lpips_huber` need weight files."""
    critic: Annotated[CriticSpec | None, ADDED] = None
    """A critic of the images made of fresh noise, `{}` for its defaults, which needs `data`, real
    images; null = without. `two_step_batch` is its batch as well."""
    flip: bool | None = None
    """Whether to mirror noise and image of every other pair together; null = where flips are
    valid."""

    recipe: Annotated[RecipeName | None, SPEED_ONLY] = None
    """Tried settings for the weights and the distance where they are not given: `slimflow`, the
    paper's, or `slimflow_huber`, which did better on digits."""

    @model_validator(mode="before")
    @classmethod
    def _of_recipe(cls, data: Any) -> Any:
        name = data.get("recipe") if isinstance(data, Mapping) else None
        known = RECIPES.get(name) if isinstance(name, str) else None
        return {**known, **data} if known is not None else data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.start is None) == (self.network is None):
            raise ValueError("give either start (a flow to begin from) or network, not both")
        if self.pair_weight == 0 and self.two_step_weight == 0:
            raise ValueError("pair_weight and two_step_weight cannot both be 0")
        if self.two_step_weight > 0 and self.guide is None:
            raise ValueError("two_step_weight needs a guide: name a flow, or set the weight to 0")
        if self.critic is not None and self.data is None:
            raise ValueError("critic learns from real images: name them as data, or leave it out")
        low, high = self.two_step_times
        if not 0 < low < high < 1:
            raise ValueError("two_step_times must be two rising times between 0 and 1")
        return self

    def batches(self) -> dict[str, int]:
        fresh = {} if self.two_step_batch is None else {"two_step_batch": self.two_step_batch}
        return super().batches() | fresh

    def keyed(self, content: dict[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
        """Real images only measure, but for a critic, which learns from them."""
        if self.critic is None or self.data is None:
            return content
        return content | {"data": inputs[self.data.job]}

    def run(self, context: JobContext) -> Generator:
        from slimctl.jobs.objectives.distill import Distillation
        from slimctl.jobs.training.perceptual import prepare_distance
        from slimctl.jobs.training.ray_train import train_model

        start = context.input(self.start) if self.start else None
        prepare_distance(context, self.distance)
        objective = Distillation(self, context.handles)
        student = self.made(context.handles)
        first = start or self.first_weights(context.handles)
        made, _ = train_model(context, self, objective, student, first)
        if "guide_two_step_error" in context.engine:
            _say_errors(context)
        return made

    def made(self, handles: "Handles") -> Generator:
        """The handle of the result, but for its weights."""
        start = handles[self.start] if self.start else None
        network = network_of(start) if start else self.plain_here(handles)
        assert network is not None
        if not isinstance(start, Generator):
            network = DenoiserSpec.beginning(network, start or self.predicts_here(handles))
        student = self.student(Generator, handles, handles[self.pairs], network)
        t_start = start.t_start if isinstance(start, Generator) else 0.0
        return student.model_copy(update={"t_start": t_start})

    def fingerprint(self) -> dict[str, str]:
        return fingerprint(self.distance)

    def preflight(self) -> Facts | None:
        check_content(self.distance)
        return None

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        known = inputs["pairs"]
        made = Facts(
            image=known.image,
            flip_valid=known.flip_valid,
            latents=known.latents,
            part=self.part,
            network=self.one_step(inputs),
        )
        own = made.network if self.start is None else None  # that of a start is checked there
        return check_each(
            made,
            lambda: self.check_source(inputs, ("pairs", self.pairs.job), own, self.flip),
            lambda: check_distance(self.distance, known),
            lambda: check_images(inputs, "pairs", self.pairs.job, ("start", "guide")),
            lambda: check_critic(self.critic, known),
            lambda: self._check_start(inputs),
            lambda: require_weights(self.distance, made),
        )

    def _check_start(self, inputs: Mapping[str, Facts]) -> None:
        """Raises FieldError where the start cannot become a one-step student."""
        if self.start is None or "start" not in inputs:
            return
        known = inputs["start"]
        if known.closed_form:
            what = f"'{self.start.job}' is the closed form of a data set, which has no weights"
            raise FieldError("start", what, "start from a trained flow, or give a network instead")

    def load(self, inputs: Mapping[str, Facts]) -> Load | None:
        image, network = inputs["pairs"].image, self.one_step(inputs)
        if image is None or network is None:
            return None
        wants_fresh = self.two_step_weight > 0 or self.critic is not None
        fresh = (self.two_step_batch or self.batch_size) if wants_fresh else 0
        guide = inputs["guide"].network if fresh and "guide" in inputs else None
        return Load(
            network,
            image,
            fresh + (self.batch_size if self.pair_weight > 0 else 0),
            (Frozen(guide, fresh, beside=True),) if guide else (),
            distance=self.distance,
            data=pair_bytes(image, inputs["pairs"].count)
            + (image_bytes(image, inputs["data"].count) if self.critic else 0),
            critic=self.critic.network if self.critic else None,
            critic_batch=2 * fresh,
            copies=int(self.data is not None),
        )

    def work(self, inputs: Mapping[str, Facts]) -> Work | None:
        image = inputs["pairs"].image
        fresh = self.steps * (self.two_step_batch or self.batch_size)
        guided = fresh if self.two_step_weight > 0 else 0
        judged = fresh if self.critic is not None else 0
        samples = max(guided, judged) + self.steps * (
            self.batch_size if self.pair_weight > 0 else 0
        )
        made = training_work(self.one_step(inputs), image, samples)
        if made is None or image is None:
            return None
        flop, assumed = made.flop, made.assumed
        guide = inputs["guide"].network if guided and "guide" in inputs else None
        if guide is not None:
            flop += FORWARD * network_size(guide, image).macs * guided
        elif guided:
            assumed = ("the guide is not counted: its network is not known before it runs",)
        if self.critic is not None:
            flop += self.critic.flop(image, made.macs) * judged
        flop += distance_macs(self.distance, image) * (THROUGH + FORWARD) * samples
        return Work(made.parameters, made.macs, flop, assumed)


def _say_errors(context: JobContext) -> None:
    """Logs how far student and guide are from the pairs."""
    found = context.engine
    own, guided = (
        f"{found[name]:.4g} +- {found.get(f'{name}_half', 0.0):.2g}"
        for name in ("student_one_step_error", "guide_two_step_error")
    )
    context.log(
        f"error against {found['guide_two_step_error_of']} pairs: student 1 step {own}, guide 2 "
        f"steps {guided}"
    )
