"""Measures the quality and the cost of a flow (with a solver), a generator or a fleet."""

from typing import TYPE_CHECKING

from pydantic import Field

from jobs.base.artifacts import (
    Dataset,
    FeatureNet,
    Fleet,
    Flow,
    Generator,
    Partition,
    QualityReport,
)
from jobs.base.context import JobContext
from jobs.base.facts import Facts, FieldError
from jobs.base.refs import Ref
from jobs.base.spec import SeededJobSpec
from models.solvers.spec import SolverSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.spec import ImageShape

FEWEST_IMAGES = 4
"""The kernel distance needs two subsets of two."""
EXAMPLE = "solver: {kind: euler, steps: 50}"


class Evaluate(SeededJobSpec):
    """Quality of a model's samples, and cost of its network.

    FID, KID, precision, recall, straightness, distance to the data; parameters, multiply-adds,
    latency.
    """

    model: Ref[Flow | Generator | Fleet]
    """What to measure."""
    data: Ref[Dataset]
    """Real images to compare with."""
    features: Ref[FeatureNet]
    """Feature network of the Fréchet and kernel distances."""
    partition: Ref[Partition] | None = None
    """Split of the labels by which quality is reported too; null = the fleet's, if it is one."""
    solver: SolverSpec | None = None
    """How a flow, or a fleet of flows, is sampled; must be null for one-step generators."""
    samples: int = Field(default=5000, ge=2)
    """Number of samples."""
    batch_size: int = Field(default=500, ge=1)
    """Samples made at once."""
    neighbours: int = Field(default=5, ge=1)
    """Nearest neighbours that span the manifold of precision and recall; 5 as arXiv 2002.09797
    recommends for thousands of images (arXiv 1904.06991 takes 3 for 50 000)."""

    def run(self, context: JobContext) -> QualityReport:
        from jobs.evaluation.quality import measure
        from jobs.evaluation.sampling import takes_solver

        model, data = context.input(self.model), context.input(self.data)
        features = context.input(self.features)
        partition = context.input(self.partition) if self.partition else None
        one_step = not takes_solver(model)
        self.expect(
            {
                "model": Facts(model.image, made=type(model).__name__, one_step=one_step),
                "data": Facts(data.image, data.count),
                "features": Facts(features.image),
            }
        )
        return measure(context, self, model, data, features, partition)

    def _solver_problem(self, is_flow: bool) -> tuple[str, str]:
        if is_flow:
            return f"'{self.model.job}' is a flow and needs a solver", "add e.g. " + EXAMPLE
        return f"'{self.model.job}' makes images in one step and takes no solver", "remove solver"

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        model = inputs["model"]
        one_step = model.one_step if model.made == Fleet.__name__ else model.made != Flow.__name__
        if model.made and one_step is not None and one_step == (self.solver is not None):
            raise FieldError("solver", *self._solver_problem(not one_step))
        data = inputs["data"]
        for field in ("model", "features"):
            image = inputs[field].image
            if image and data.image and _pixels(image) != _pixels(data.image):
                raise FieldError(
                    field,
                    f"its images are {_pixels(image)}, those of '{self.data.job}' "
                    f"{_pixels(data.image)}",
                    "compare images of one shape",
                )
        self._check_counts(data.count)
        return Facts()

    def _check_counts(self, real: int | None) -> None:
        fewest = max(FEWEST_IMAGES, self.neighbours + 1)
        if self.samples < fewest:
            raise FieldError(
                "samples",
                f"{self.samples} samples are too few with neighbours {self.neighbours}",
                f"make samples {fewest} or more",
            )
        if real is not None and real < fewest:
            raise FieldError(
                "data",
                f"'{self.data.job}' has only {real} images, too few with neighbours "
                f"{self.neighbours}",
                f"compare with {fewest} images or more",
            )


def _pixels(image: "ImageShape") -> str:
    return f"{image.size} x {image.size} x {image.channels}"
