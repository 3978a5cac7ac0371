"""Makes a teacher of a checkpoint that somebody published, or of the user's own weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from slimctl.jobs.base.artifacts import EncoderFiles, Flow
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import what_and_fix
from slimctl.jobs.base.facts import Facts, FieldError, LatentSpace, MissingFile
from slimctl.jobs.base.spec import BY_CONTENT, JobSpec
from slimctl.models.flows.parameterisation import Parameterisation, Prediction, Schedule
from slimctl.models.networks.autoencoder.spec import usual_autoencoder
from slimctl.models.networks.diffusers_model.spec import DiffusersModelSpec
from slimctl.models.networks.registry import parse_network
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import ADDED, ImageShape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from slimctl.models.checkpoints.teacher import TeacherFile
    from slimctl.models.text import TextEncoders


class ImportTeacher(JobSpec):
    """A flow from a file: SlimFlow, RectifiedFlow, EDM, diffusers, SiT, or weights of one's own.

    Nothing in the file is executed, and nothing of it is loaded unless all of it fits. The
    architecture is read from the file; what it does not say stands in the fields.
    """

    version: ClassVar[int] = 2

    path: Annotated[str, Field(min_length=1), BY_CONTENT]
    """Checkpoint of SlimFlow, RectifiedFlow (.pth) or SiT (.pt), snapshot of EDM (.pkl), folder of
    diffusers or of `slimctl export`, or safetensors, ours or of one's own network."""
    ema: bool = True
    """Whether to take the averaged weights, where the file has others too."""
    variant: Annotated[str, Field(min_length=1)] | None = None
    """Variant of the weights in a folder of diffusers, such as fp16; null = the unnamed one, else
    the only one."""
    network: dict[str, Any] | None = None
    """Fields of the network that the file does not say, such as `attention_resolutions`; with
    `kind`, the whole network, which weights under its own names need; null = as the file says."""
    autoencoder: Annotated[str | None, BY_CONTENT] = None
    """Folder of the autoencoder that its images are latents of, for a checkpoint that has none
    beside it, such as SiT's; of a pipeline, in place of its own. null = as the folder has it."""
    size: int | None = Field(default=None, ge=1, le=4096)
    """Height and width of the images, px, or of the latents; null = as the file says."""
    image_channels: int | None = Field(default=None, ge=1, le=64)
    """Channels of the images; null = as the file says."""
    classes: int | None = Field(default=None, ge=0)
    """Number of classes; null = as the file says."""
    prediction: Prediction | None = None
    """What the network predicts: velocity, noise, data or v; null = as the file says, else a
    velocity."""
    schedule: Schedule | None = None
    """Noise that the network was trained with; null = as the file says, else the straight path."""
    t_start: float | None = Field(default=None, ge=0, lt=1)
    """Flow time at which sampling starts; null = 0.001 for SlimFlow, 1/81 for EDM."""
    label_counts: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """How often each class is sampled, as counts; null = as the file says, else all equally
    often."""
    convention: Annotated[Literal["instaflow"] | None, ADDED] = None
    """`instaflow` for a pipeline whose network is told 1000 (1 - t) and answers image - noise,
    which nothing in its folder says."""
    embedded_guidance: Annotated[float | None, ADDED] = None
    """Guidance that a network takes as an input, such as FLUX dev's; null = it takes none."""
    flip_valid: bool = False
    """Whether a mirrored sample is as good: true for teachers trained with mirrored images, as the
    published ones of CIFAR-10, FFHQ and ImageNet are."""

    def run(self, context: JobContext) -> Flow:
        from slimctl.jobs.storage.autoencoders import save_autoencoder
        from slimctl.jobs.storage.tensors import save_weights

        read = self._read()
        if read.assumed:
            context.warn(f"{read.assumed}; if that is wrong, set size")
        if read.one_step:
            context.warn(
                f"{self.path} makes images in one step: as a flow it knows its velocity at "
                f"t = {read.how.t_start:g} only"
            )
        save_weights(read.weights, context.folder / "weights.safetensors")
        autoencoder = None
        if read.autoencoder:
            autoencoder = save_autoencoder(read.autoencoder, context, read.image)
        encoder = None if read.text is None else self._keep_encoder(context, read.text)
        parameters = sum(
            read.weights[name].numel() for name in _parameters_of(read) if name in read.weights
        )
        image = read.image
        context.log(
            f"{read.network.kind} of {parameters:,} parameters that predicts "
            f"{read.how.prediction}; images of {image.size} x {image.size} x {image.channels}, "
            f"{image.classes} classes"
        )
        return Flow(
            source="network",
            image=image,
            network=read.network.model_dump(mode="json"),
            label_counts=self._label_counts(read),
            flip_valid=self.flip_valid,
            parameters=parameters,
            autoencoder=autoencoder,
            encoder=encoder,
            **read.how.model_dump(),
        )

    def _keep_encoder(self, context: JobContext, text: "TextEncoders") -> EncoderFiles | None:
        """Copies what encodes texts beside the weights; None where the folder has none of it."""
        from slimctl.jobs.pairs.texts import keep_encoder
        from slimctl.models.text_files import encoder_files

        files = encoder_files(text.folder)
        if not any(file.parent.name.startswith("text_encoder") for file in files):
            context.warn(f"{self.path} has no text_encoder: prompts must be encoded elsewhere")
            return None
        series = context.artifact_id
        return EncoderFiles(
            pipeline=text.pipeline,
            pixels=text.pixels,
            width=text.width,
            root=f"prompts/{series}/encoder",
            files=tuple(keep_encoder(context.store, series, text.folder, files)),
        )

    def _read(self) -> "TeacherFile":
        """The file, checked.

        Raises:
            FieldError: it cannot be used as asked.
        """
        from slimctl.models.checkpoints.load import read_teacher
        from slimctl.models.checkpoints.teacher import Overrides

        try:
            overrides = Overrides(
                ema=self.ema,
                variant=self.variant,
                size=self.size,
                image_channels=self.image_channels,
                classes=self.classes,
                t_start=self.t_start,
                prediction=self.prediction,
                schedule=self.schedule,
                autoencoder=Path(self.autoencoder) if self.autoencoder else None,
                convention=self.convention,
                embedded_guidance=self.embedded_guidance,
                network=self.network or {},
            )
            read = read_teacher(Path(self.path), overrides)
        except (ValueError, FileNotFoundError) as error:
            raise _field_error(error) from error
        if read.autoencoder is not None and self.flip_valid:
            what = "flip_valid is true, but a mirrored latent is not that of the mirrored image"
            raise FieldError("flip_valid", what, "leave it out")
        if read.undecided:
            what = f"{self.path}: {read.undecided}, but others fit as well"
            raise FieldError("path", what, f"give {read.decide}")
        return read

    def _label_counts(self, read: "TeacherFile") -> tuple[int, ...]:
        """How often each class is sampled.

        Raises:
            FieldError: there are not as many counts as classes.
        """
        image = read.image
        if self.label_counts is None:
            return read.label_counts or (1,) * image.classes
        if len(self.label_counts) != image.classes or (
            image.classes and not any(self.label_counts)
        ):
            raise FieldError(
                "label_counts",
                f"label_counts has {len(self.label_counts)} counts that add up to "
                f"{sum(self.label_counts)}, but the teacher has {image.classes} classes",
                "give one count per class, not all 0, or leave it out",
            )
        return self.label_counts

    def fingerprint(self) -> dict[str, str]:
        from slimctl.jobs.base.fingerprint import content_of_files
        from slimctl.models.checkpoints.paths import autoencoder_folder, files_in, files_of

        path = Path(self.path)
        files: Sequence[Path] = files_of(path, ema=self.ema, variant=self.variant)
        content = {"path": content_of_files(files, path)}
        if self.autoencoder:
            folder = Path(self.autoencoder)
            files = files_in(autoencoder_folder(folder) or folder)
            content["autoencoder"] = content_of_files(files, folder)
        return content

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        from slimctl.models.checkpoints.paths import autoencoder_folder, require_path

        if self.autoencoder and autoencoder_folder(Path(self.autoencoder)) is None:
            what = f"there is no autoencoder at '{self.autoencoder}'"
            fix = "name a folder with config.json and safetensors"
            raise MissingFile("autoencoder", what, fix, self._stated())
        try:
            require_path(Path(self.path))
        except FileNotFoundError as error:
            raise MissingFile("path", *what_and_fix(error), self._stated()) from error
        return self._stated()

    def _stated(self) -> Facts:
        """What the fields alone tell of the teacher, whose file may not be there yet.

        A network of diffusers works on latents, for which Stable Diffusion's autoencoder is taken.
        """
        if not self.size or not self.image_channels or self.classes is None:
            return Facts(flip_valid=self.flip_valid)
        image = ImageShape(channels=self.image_channels, size=self.size, classes=self.classes)
        network, latents, flow = self._stated_network(), None, None
        if isinstance(network, DiffusersModelSpec):
            latents = LatentSpace(usual_autoencoder(self.image_channels))
        if network is not None:
            given = {"prediction": self.prediction, "schedule": self.schedule}
            null_class = getattr(network, "null_class", None) or None
            known = {name: value for name, value in given.items() if value is not None}
            flow = Parameterisation(null_class=null_class, **known)
        return Facts(image, flip_valid=self.flip_valid, network=network, latents=latents, flow=flow)

    def _stated_network(self) -> NetworkSpec | None:
        """The network that the fields give whole; None = only the file tells."""
        if self.network is None or not {"kind", "preset"} & set(self.network):
            return None
        try:
            return parse_network(self.network)
        except ValueError as error:
            raise FieldError("network", str(error).partition("\n")[0]) from error

    def preflight(self) -> Facts:
        read = self._read()
        counts = self._label_counts(read)
        return Facts(
            image=read.image,
            flip_valid=self.flip_valid,
            classes_seen=sum(count > 0 for count in counts) or None,
            latents=LatentSpace(read.autoencoder.spec) if read.autoencoder else None,
            flow=read.how,
            network=read.network,
        )


def _parameters_of(read: "TeacherFile") -> list[str]:
    """Names of the weights that are parameters, not buffers."""
    from slimctl.models.checkpoints.teacher import build_to_fill

    return [name for name, _ in build_to_fill(read.network, read.image).named_parameters()]


def _field_error(error: ValueError | FileNotFoundError) -> FieldError:
    """The error at the field that is to be left out, else at the path."""
    from slimctl.models.checkpoints.teacher import OverrideError

    field = error.field if isinstance(error, OverrideError) else "path"
    return FieldError(field, *what_and_fix(error))
