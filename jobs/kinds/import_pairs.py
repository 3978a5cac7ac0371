"""Takes noise-image pairs that were made elsewhere, such as by the published SlimFlow code."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from slimctl.jobs.base.artifacts import PairSet
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.base.spec import BY_CONTENT, JobSpec

if TYPE_CHECKING:
    from slimctl.jobs.pairs.arrays import PairArrays
    from slimctl.models.spec import ImageShape


class ImportPairs(JobSpec):
    """Pairs from `z0.npy` (noise), `z1.npy` (images in [-1, 1]) and, if there, `label.npy`.

    The noise is stored, as no seed is known that would draw it again.

    Source:
        SlimFlow (arXiv 2407.12718), generate_data.py of its public code: z0 is the noise at t = 0,
        z1 the image at t = 1, labels are one-hot rows.
    """

    path: Annotated[str, Field(min_length=1), BY_CONTENT]
    """Folder with the arrays, or a folder of such folders (one per seed)."""
    labels: bool = True
    """Whether to read the labels, where there are any; zeros throughout count as none."""
    classes: int | None = Field(default=None, ge=1)
    """Number of classes; null = the width of one-hot rows, else the largest class + 1."""
    flip_valid: bool = False
    """Whether noise and image may be mirrored together: true if their teacher was trained with
    mirrored images."""
    shard_size: int = Field(default=1000, ge=1)
    """Pairs per file of the store."""

    def run(self, context: JobContext) -> PairSet:
        from slimctl.jobs.pairs.arrays import store_pairs

        opened = self._open()
        facts = self._facts(opened)
        assert facts.image is not None
        series = context.artifact_id
        made = store_pairs(context, series, opened, self.shard_size)
        counts = self._counts(opened, facts.image)
        context.log(f"{facts.count} pairs of {facts.image.size} px from {len(opened)} folder(s)")
        return PairSet(
            image=facts.image,
            count=facts.count or 0,
            shard_size=self.shard_size,
            seed=0,
            noise="stored",
            generator_version=0,
            nfe=0.0,
            label_counts=counts,
            flip_valid=self.flip_valid,
            shards=made,
        )

    def _open(self) -> "tuple[PairArrays, ...]":
        from slimctl.jobs.pairs.arrays import open_pairs

        opened = open_pairs(Path(self.path), labels=self.labels)
        if self.classes is None and max(one.classes for one in opened) == 1:
            # The published code writes zeros where it has no labels.
            return tuple(replace(one, labels=None, classes=0) for one in opened)
        return opened

    def _facts(self, opened: "Sequence[PairArrays]") -> Facts:
        """What the arrays tell.

        Raises:
            FieldError: there are more classes than asked for, or none.
        """
        from slimctl.jobs.pairs.arrays import image_of

        image = image_of(opened)
        if self.classes is not None:
            if image.classes == 0:
                what = f"classes is {self.classes}, but the pairs have no labels"
                raise FieldError("classes", what, "leave out classes")
            if image.classes > self.classes:
                what = f"classes is {self.classes}, but the labels have {image.classes}"
                raise FieldError("classes", what, f"set classes: {image.classes}, or leave it out")
            image = image.model_copy(update={"classes": self.classes})
        counts = self._counts(opened, image)
        seen = sum(count > 0 for count in counts) if counts else None
        return Facts(image, sum(len(one) for one in opened), self.flip_valid, seen)

    def _counts(self, opened: "Sequence[PairArrays]", image: "ImageShape") -> tuple[int, ...]:
        import numpy as np

        if image.classes == 0:
            return ()
        counts = np.zeros(image.classes, np.int64)
        for one in opened:
            if one.labels is not None:
                counts += np.bincount(one.labels, minlength=image.classes)
        return tuple(counts.tolist())

    def fingerprint(self) -> dict[str, str]:
        from slimctl.jobs.base.fingerprint import content_of_files
        from slimctl.jobs.pairs.arrays import pair_files

        path = Path(self.path)
        return {"path": content_of_files(pair_files(path), path)}

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        from slimctl.jobs.pairs.arrays import find_pairs

        try:
            find_pairs(Path(self.path))
        except UserError as error:
            raise FieldError("path", f"{error.where}: {error.what}", error.fix) from error
        return Facts(flip_valid=self.flip_valid)

    def preflight(self) -> Facts:
        return self._facts(self._open())
