"""Splits conditions into subsets of equal size, each for a student of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from slimctl.jobs.base.artifacts import Dataset, EmbeddedPrompts, FeatureNet, Partition
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError, what_and_fix
from slimctl.jobs.base.facts import Facts, FieldError, without_labels
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import BY_CONTENT, SeededJobSpec
from slimctl.models.spec import ADDED

if TYPE_CHECKING:
    from slimctl.models.partition import Matrix, Subsets

Label = Annotated[int, Field(ge=0)]


class SplitConditions(SeededJobSpec):
    """Subsets of the labels of a data set, or of the rows of an embedding.

    Source: the ways of Song et al., Multi-student distillation, arXiv 2410.23274: consecutive runs
    of class numbers, k-means with equal sizes, and random.
    """

    data: Ref[Dataset] | None = None
    """Labelled images whose labels are split; null = the rows of `embeddings` are."""
    method: Literal["consecutive", "strided", "random", "kmeans", "explicit"] = "consecutive"
    """kmeans: near labels together, by `features` or `embeddings`; explicit: `subsets`."""
    count: int | None = Field(default=None, ge=1)
    """Number of parts; null with `subsets`, which say it."""
    subsets: tuple[tuple[Label, ...], ...] | None = None
    """Labels of each part, each label once; for `explicit`."""
    features: Ref[FeatureNet] | None = None
    """Network whose mean features by label are clustered; for `kmeans`."""
    embeddings: Annotated[str | None, BY_CONTENT] = None
    """A .npy file with a row of numbers per condition, clustered by `kmeans`."""
    prompts: Annotated[Ref[EmbeddedPrompts] | None, ADDED] = None
    """Prompts, clustered by `kmeans` on the vectors of whole texts: any number of them; a fleet
    then finds the part of any other prompt."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.method == "explicit") != (self.subsets is not None):
            raise ValueError("give subsets with method: explicit, and with no other method")
        if (self.subsets is None) == (self.count is None):
            raise ValueError("give count, the number of parts, unless subsets list them")
        if self.prompts is not None:
            others = (self.data, self.features, self.embeddings)
            if self.method != "kmeans" or any(each is not None for each in others):
                raise ValueError("prompts are split by method: kmeans, and nothing beside them")
            return self
        if self.method == "kmeans" and (self.features is None) == (self.embeddings is None):
            raise ValueError("kmeans clusters either features or embeddings: give one of the two")
        if self.method != "kmeans" and self.features is not None:
            raise ValueError(f"features belong to method: kmeans, not to {self.method}")
        if self.data is None and self.embeddings is None:
            raise ValueError("give data, whose labels are split, prompts, or embeddings")
        if self.data is None and self.features is not None:
            raise ValueError("features are taken of images: give data too")
        return self

    def parts(self) -> int | None:
        """Number of parts, over which a group of jobs can iterate."""
        return self.count if self.subsets is None else len(self.subsets)

    def wants_gpu(self) -> bool:
        return self.features is not None

    def run(self, context: JobContext) -> Partition:
        if self.prompts is not None:
            return self._split_prompts(context, context.input(self.prompts))
        data = context.input(self.data) if self.data else None
        rows = None if self.embeddings is None else self._embeddings()
        conditions = data.image.classes if data else 0 if rows is None else len(rows)
        if rows is not None and len(rows) != conditions:
            raise self._wrong_rows(len(rows), conditions)
        if self.features is not None:
            rows = self._class_means(context)
        subsets = self._split(conditions, rows)
        counts = data.label_counts if data else ()
        self._check_filled(context, subsets, counts)
        for part, labels in enumerate(subsets):
            context.log(f"part {part}: {', '.join(map(str, labels))}")
        return Partition(subsets=subsets, label_counts=counts, method=self.method)

    def _split_prompts(self, context: JobContext, prompts: EmbeddedPrompts) -> Partition:
        import torch
        from safetensors.torch import save_file

        from slimctl.jobs.storage.texts import PromptTexts
        from slimctl.models.clusters import balanced_clusters

        torch.set_num_threads(context.threads)
        points = PromptTexts(context.store, prompts).vectors().numpy()
        try:
            found = balanced_clusters(points, self.count or 1, self.seed or 0)
        except ValueError as error:
            raise UserError(f"job '{context.job}'", *what_and_fix(error)) from error
        arrays = {"part": found.part, "centres": found.centres, "prices": found.prices}
        file = context.folder / "parts.safetensors"
        save_file({name: torch.from_numpy(each) for name, each in arrays.items()}, file)
        sizes = torch.bincount(torch.from_numpy(found.part)).tolist()
        context.log(f"{len(sizes)} parts of {min(sizes):,} to {max(sizes):,} prompts; mean squared "
                    f"distance to a part's centre {found.cost:.4g}")  # fmt: skip
        return Partition(subsets=(), method=self.method, prompts=prompts, sizes=tuple(sizes))

    def _split(self, conditions: int, rows: "Matrix | None") -> "Subsets":
        from slimctl.models import partition

        if self.subsets is not None:
            return tuple(tuple(sorted(labels)) for labels in self.subsets)
        count = self.count or 1
        if self.method == "consecutive":
            return partition.consecutive(conditions, count)
        if self.method == "strided":
            return partition.strided(conditions, count)
        if self.method == "random":
            return partition.shuffled(conditions, count, self.seed or 0)
        assert rows is not None
        if len(rows) > partition.MOST_EXCHANGED:
            from slimctl.models.clusters import balanced_clusters

            found = balanced_clusters(rows.astype("float32"), count, self.seed or 0)
            return partition.as_subsets(found.part.tolist(), count)
        return partition.balanced_kmeans(rows, count, self.seed or 0)

    def _class_means(self, context: JobContext) -> "Matrix":
        from slimctl.jobs.evaluation.features import class_means

        assert self.data is not None
        assert self.features is not None
        return class_means(context, context.input(self.data), context.input(self.features))

    def _embeddings(self) -> "Matrix":
        """The file's rows.

        Raises:
            FieldError: it cannot be read, or is no table of finite numbers.
        """
        import numpy as np

        fix = "save one row of numbers per condition with numpy.save"
        try:
            rows: Any = np.load(Path(self.embeddings or ""), allow_pickle=False)
        except (OSError, ValueError) as error:
            what = f"{self.embeddings} cannot be read as .npy: {error}"
            raise FieldError("embeddings", what, fix) from error
        if rows.ndim != 2 or rows.dtype.kind not in "fiu" or not np.isfinite(rows).all():
            what = f"{self.embeddings} holds {rows.dtype} {rows.shape}, no table of finite numbers"
            raise FieldError("embeddings", what, fix)
        table: Matrix = rows.astype(np.float64)
        return table

    def _wrong_rows(self, rows: int, conditions: int) -> FieldError:
        return FieldError(
            "embeddings",
            f"{self.embeddings} has {rows} rows, but the data has {conditions} classes",
            "give a row for each class, in the order of the labels",
        )

    def _check_conditions(self, conditions: int, counts: tuple[int, ...], known: Facts) -> None:
        """Checks the request against the labels that there are."""
        assert self.data is not None
        if conditions == 0:
            what, fix = without_labels(known, self.data.job)
            what = f"{what}, so there is nothing to split"
            raise FieldError("data", what, fix or "use a labelled data set")
        if self.count is not None and self.count > conditions:
            what = f"count is {self.count}, but '{self.data.job}' has {conditions} classes"
            raise FieldError("count", what, f"ask for at most {conditions} parts")
        if self.subsets is None:
            return
        from slimctl.models.partition import check_subsets

        try:
            check_subsets(self.subsets, conditions)
        except ValueError as error:
            what, fix = what_and_fix(error)
            raise FieldError("subsets", what, fix) from error
        empty = [part for part, labels in enumerate(self.subsets) if not _images(labels, counts)]
        if counts and empty:
            what = f"'{self.data.job}' has no image of the labels {list(self.subsets[empty[0]])}"
            raise FieldError("subsets", what, "put these labels with others that have images")

    def _check_filled(
        self, context: JobContext, subsets: "Subsets", counts: tuple[int, ...]
    ) -> None:
        for part, labels in enumerate(subsets):
            if counts and not _images(labels, counts):
                raise UserError(
                    f"job '{context.job}'",
                    f"part {part} holds the labels {list(labels)}, of which there is no image",
                    "ask for fewer parts, or list the subsets",
                )

    def preflight(self) -> Facts | None:
        if self.embeddings is None:
            return None
        rows = len(self._embeddings())
        if self.data is None and (self.count or 1) > rows:
            what = f"count is {self.count}, but {self.embeddings} has {rows} rows"
            raise FieldError("count", what, f"ask for at most {rows} parts")
        return Facts(parts=self.parts())

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        asked = inputs["prompts"].count if self.prompts else None
        if asked is not None and (self.count or 1) > asked:
            what = f"count is {self.count}, but there are {asked} prompts"
            raise FieldError("count", what, f"ask for at most {asked} parts")
        known = inputs.get("data")
        if known is not None and known.image is not None:
            self._check_conditions(known.image.classes, known.label_counts or (), known)
        return Facts(parts=self.parts())


def _images(labels: "tuple[int, ...]", counts: tuple[int, ...]) -> int:
    return sum(counts[label] for label in labels if label < len(counts))
