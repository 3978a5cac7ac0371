"""Takes an autoencoder from outside, as a folder of diffusers."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from slimctl.jobs.base.artifacts import Autoencoder
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import what_and_fix
from slimctl.jobs.base.facts import Facts, FieldError, LatentSpace, MissingFile
from slimctl.jobs.base.spec import BY_CONTENT, JobSpec
from slimctl.models.checkpoints.paths import autoencoder_folder, files_in
from slimctl.models.spec import ImageShape

if TYPE_CHECKING:
    from slimctl.models.checkpoints.teacher import AutoencoderFile


class ImportAutoencoder(JobSpec):
    """An autoencoder from a folder: `AutoencoderKL`, or the faster `AutoencoderTiny`.

    It encodes images (`encode_latents`), or decodes latents in place of the autoencoder that they
    are of (`decoder` of `evaluate`). A teacher of latents brings its own.
    """

    path: Annotated[str, Field(min_length=1), BY_CONTENT]
    """Folder with its config.json and safetensors, or that of a pipeline with a `vae`."""
    size: int = Field(default=256, ge=1, le=4096)
    """Height and width of the images that it is for, px."""

    def run(self, context: JobContext) -> Autoencoder:
        from slimctl.jobs.storage.autoencoders import save_autoencoder

        read = self._read()
        made = save_autoencoder(read, context, self._latents(read))
        context.log(f"{read.spec.model} of {made.parameters:,} parameters")
        return made

    def _read(self) -> "AutoencoderFile":
        """The folder, checked; raises FieldError where it cannot be used."""
        from slimctl.models.checkpoints.autoencoder_folder import read_autoencoder

        try:
            return read_autoencoder(Path(self.path))
        except (ValueError, FileNotFoundError) as error:
            what, fix = what_and_fix(error)
            raise FieldError("path", f"{self.path}: {what}", fix) from error

    def _latents(self, read: "AutoencoderFile") -> ImageShape:
        """What it makes of images of `size`; raises FieldError where it makes nothing of them."""
        try:
            pixels = ImageShape(channels=read.spec.image_channels, size=self.size)
            return read.spec.latents(pixels)
        except ValueError as error:
            raise FieldError("size", *what_and_fix(error)) from error

    def fingerprint(self) -> dict[str, str]:
        from slimctl.jobs.base.fingerprint import content_of_files

        path = Path(self.path)
        return {"path": content_of_files(files_in(autoencoder_folder(path) or path), path)}

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        if autoencoder_folder(Path(self.path)) is None:
            what = f"there is no autoencoder at '{self.path}'"
            raise MissingFile("path", what, "name a folder with config.json and safetensors")
        return Facts()

    def preflight(self) -> Facts | None:
        read = self._read()
        self._latents(read)
        return Facts(latents=LatentSpace(read.spec))
