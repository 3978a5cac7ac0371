"""Reads images from outside into the store, checked and in one shape."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from slimctl.jobs.base.artifacts import Dataset
from slimctl.jobs.base.cluster import Cluster, Needs, Range, range_mistake
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError, MissingFile, SpecWarning
from slimctl.jobs.base.spec import BY_CONTENT, SPEED_ONLY, JobSpec, Placement
from slimctl.models.spec import ADDED, ImageShape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slimctl.jobs.data.loaded import LoadedImages
    from slimctl.jobs.data.source import ImageSource

PREFLIGHT_BYTES = 64 * 2**20
"""Sources up to this size are read whole before anything starts; larger ones when the job runs."""
WHOLE_BYTES = 256 * 2**20
"""Sources up to this size are read into memory; larger ones are prepared in shards by actors."""
SHARDED = ("tar", "zip", "arrow", "parquet", "images")
"""Readers of sources that are."""


class LoadDataset(JobSpec):
    """Images: digits, Parquet, Arrow, WebDataset, EDM's .zip, a folder, CIFAR's batches, .npz."""

    version: ClassVar[int] = 2

    source: Annotated[Literal["digits"] | str, BY_CONTENT]
    """`digits`, or a path: Parquet files or WebDataset's .tar shards (one, a folder of them, or a
    pattern: `*`, `{000..099}`; shards also as `s3://...`), EDM's .zip, folder of Hugging Face's
    Arrow files, of images (a subfolder per class) or of CIFAR's python batches, .npz with `images`
    and `labels`, or .npy."""
    split: str | None = None
    """Part of the source to read (`train`, `test`), where it has parts; null = all of it."""
    size: int | None = Field(default=None, ge=1, le=4096)
    """Height and width to resize to, px; null = as they are, all of one size."""
    crop: Literal["center", "none"] = "center"
    """How images that are not square become so: cut at the centre, or refused."""
    filter: Annotated[Literal["lanczos", "bicubic", "box", "dhariwal"], ADDED] = "lanczos"
    """How images are resized, always averaged over the area of a new pixel; dhariwal = as ADM and
    EDM prepared ImageNet: halved by boxes, then bicubic, then cut."""
    broken: Annotated[Literal["fail", "skip"], ADDED] = "fail"
    """What becomes of images that cannot be used: they end the job, or are left out and named."""
    channels: Literal[1, 3] | None = None
    """1 grey, 3 colour; null = 1 if every image is grey, else 3."""
    max_images: int | None = Field(default=None, ge=1)
    """Number of images to take, from the first; null = all."""
    labels: bool = True
    """Whether to keep the labels of a labelled source."""
    label: str | None = Field(default=None, min_length=1)
    """Column of the labels (such as CIFAR-100's `fine_label`) in Parquet or Arrow files, batches,
    an .npz or a metadata.csv; of a shard's samples `cls`, `txt` or a field of their .json; null =
    `cls`, `label` or `labels`."""
    classes: int | None = Field(default=None, ge=1)
    """Number of classes that the labels must have; null = as many as they have. A pipeline that
    states it can be planned before its images are there."""
    flip_valid: bool | None = None
    """Whether a mirrored image is as good as the original; null = what the source is known for,
    else true."""
    actors: Annotated[Literal["auto"] | Annotated[int, Field(ge=1)] | Range, SPEED_ONLY] = "auto"
    """Actors that prepare a source of more than 256 MiB, which is kept in shards and never in
    memory as a whole; auto = one per CPU; {min, max} = as many as the cluster has at the time."""

    def run(self, context: JobContext) -> Dataset:
        import torch
        from safetensors.torch import save_file

        found = self._find()
        if self._is_sharded(found):
            return self._prepare(context, found)
        loaded = self._read()
        tensors = {"images": torch.from_numpy(loaded.images)}
        if loaded.labels is not None:
            tensors["labels"] = torch.from_numpy(loaded.labels)
        save_file(tensors, context.folder / "data.safetensors")
        made = self._handle(loaded)
        if loaded.skipped:
            context.warn(f"{loaded.skipped}; they are left out")
        size, channels = made.image.size, made.image.channels
        context.log(
            f"{made.count} images of {size} x {size} x {channels}, {made.image.classes} classes, "
            f"from {loaded.source}"
        )
        return made

    def _prepare(self, context: JobContext, found: "ImageSource") -> Dataset:
        import torch
        from safetensors.torch import save_file

        from slimctl.jobs.data.pixels import PixelRules
        from slimctl.jobs.preparing.pieces import Preparation
        from slimctl.jobs.preparing.prepare import prepare

        rules = PixelRules(self.size, self.crop, self.channels, self.filter, self.broken)
        asked = Preparation(context.store, context.artifact_id, found, rules, self.labels)
        most = self.actors.max if isinstance(self.actors, Range) else 0
        actors = most or self.needs(context.cluster).parts
        made = prepare(context, asked, self.max_images, actors)
        if made.skipped:
            context.warn(f"{made.skipped}; they are left out")
        labels = {} if made.labels is None else {"labels": torch.from_numpy(made.labels)}
        save_file(labels, context.folder / "data.safetensors")
        shape = (sum(made.counts), made.side, made.side, made.channels)
        return self._described(shape, made.labels, made.class_names, None, found.words).model_copy(
            update={"shards": made.shards, "shard_counts": made.counts}
        )

    def _is_sharded(self, found: "ImageSource") -> bool:
        return found.reader in SHARDED and found.larger_than(WHOLE_BYTES)

    def placed(self, cluster: Cluster) -> Placement:
        try:
            return "own" if self._is_sharded(self._find()) else "shared"
        except UserError:
            return "shared"  # `expect` tells it

    def needs(self, cluster: Cluster) -> Needs:
        if self.placed(cluster) == "shared":
            return super().needs(cluster)
        chosen = self.actors.min if isinstance(self.actors, Range) else self.actors
        wanted = cluster.cpus if chosen == "auto" else chosen
        actors = max(1, min(int(wanted), int(cluster.cpus)))
        return Needs(cpus=actors, gpus=0, parts=actors)

    def _handle(self, loaded: "LoadedImages") -> Dataset:
        return self._described(
            loaded.images.shape, loaded.labels, loaded.class_names, loaded.flip_valid, loaded.source
        )

    def _described(
        self,
        shape: tuple[int, ...],
        labels: "NDArray[np.int64] | None",
        class_names: tuple[str, ...],
        flip_valid: bool | None,
        source: str,
    ) -> Dataset:
        """The handle of images (N, S, S, C)."""
        from slimctl.jobs.data.loaded import count_labels

        count, size, _, channels = shape
        counts = count_labels(labels, class_names)
        if self.labels and self.classes not in (None, len(counts)):
            raise UserError(
                self.source,
                f"has {len(counts)} classes, classes is {self.classes}",
                f"set classes: {len(counts) or 'null'} or name another source",
            )
        known = True if flip_valid is None else flip_valid
        return Dataset(
            image=ImageShape(channels=channels, size=size, classes=len(counts)),
            count=count,
            class_names=class_names,
            label_counts=counts,
            flip_valid=known if self.flip_valid is None else self.flip_valid,
            source=source,
        )

    def _read(self) -> "LoadedImages":
        from slimctl.jobs.data.read import read_images

        return read_images(
            self.source,
            split=self.split,
            size=self.size,
            crop=self.crop,
            channels=self.channels,
            resize=self.filter,
            broken=self.broken,
            max_images=self.max_images,
            labels=self.labels,
            label=self.label,
        )

    def _find(self) -> "ImageSource":
        from slimctl.jobs.data.source import find_source

        return find_source(self.source, self.split, self.label)

    def fingerprint(self) -> dict[str, str]:
        from slimctl.jobs.base.fingerprint import content_of_files
        from slimctl.jobs.data.random_access import content_of_remote

        if self.source == "digits":
            return {"source": "scikit-learn digits"}
        found = self._find()
        if found.remote:
            return {"source": content_of_remote(found.remote)}
        return {"source": content_of_files(found.content, found.root)}

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        known = self._known()
        if mistake := range_mistake(self.actors):
            raise FieldError("actors", mistake, "swap them")
        self._check_source(known)
        return known

    def _known(self) -> Facts:
        """What the fields alone tell of the images."""
        if self.source == "digits":
            image = ImageShape(
                channels=self.channels or 1, size=self.size or 8, classes=10 if self.labels else 0
            )
            return Facts(image, min(1797, self.max_images or 1797), bool(self.flip_valid))
        if self.size and self.channels and (self.classes or not self.labels):
            classes = (self.classes or 0) if self.labels else 0
            image = ImageShape(channels=self.channels, size=self.size, classes=classes)
            return Facts(image, None, self.flip_valid)
        return Facts(flip_valid=self.flip_valid)

    def _check_source(self, known: Facts) -> None:
        try:
            self._find()
        except UserError as error:
            what = f"{error.where}: {error.what}" if error.where else error.what
            if (
                self.source
                and "://" not in self.source
                and not Path(self.source).expanduser().exists()
            ):
                raise MissingFile("source", what, error.fix, known) from error
            raise FieldError("source", what, error.fix) from error

    def warnings(self, inputs: Mapping[str, Facts]) -> list[SpecWarning]:
        try:
            found = self._find()
            columns = self._columns(found) if self.labels else ()
        except UserError:
            return []  # `expect` and `preflight` tell it as a mistake
        warnings = [SpecWarning("source", remark.what, remark.fix) for remark in found.remarks]
        if columns:
            held = ", ".join(f"`{name}`" for name in columns)
            what = f"there is no column `label`, but {held}: the images are read without labels"
            fix = f"set label: {columns[0]}; or labels: false"
            warnings.append(SpecWarning("label", what, fix))
        return warnings

    def _columns(self, found: "ImageSource") -> tuple[str, ...]:
        """Columns that could be the labels of a source that has columns."""
        if found.reader not in ("parquet", "arrow", "batches"):
            return ()
        from slimctl.jobs.data.read import label_columns

        return label_columns(found)

    def preflight(self) -> Facts | None:
        if self.source == "digits":
            return None
        found = self._find()
        if found.larger_than(PREFLIGHT_BYTES):
            return None
        loaded = self._read()
        made = self._handle(loaded)
        return Facts(
            made.image,
            made.count,
            made.flip_valid,
            classes_seen=sum(number > 0 for number in made.label_counts),
            label_counts=made.label_counts,
            label_columns=loaded.label_columns,
        )
