"""Takes a feature network from outside: an ONNX file, or a folder of DINOv2 or CLIP."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from slimctl.jobs.base.artifacts import FeatureNet
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError, Intake, MissingFile
from slimctl.jobs.base.fingerprint import content_of_files
from slimctl.jobs.base.spec import BY_CONTENT, JobSpec

PREFLIGHT_BYTES = 64 * 2**20
"""Networks up to this size are tried before anything starts; larger ones when the job runs."""


class ImportFeatures(JobSpec):
    """Any feature network: ONNX, (B, C, H, W) float32 in [-1, 1] to (B, D); or DINOv2 or CLIP.

    Source:
        DINOv2 as features of a Fréchet distance: Stein et al., arXiv 2306.04675.
    """

    path: Annotated[str, BY_CONTENT]
    """The ONNX file, or a folder of transformers' Dinov2Model or CLIPModel; copied into the
    result."""

    def run(self, context: JobContext) -> FeatureNet:
        if self._folder.is_dir():
            return self._of_transformers(context)
        import shutil

        from slimctl.jobs.evaluation.onnx_features import open_onnx

        network = open_onnx(Path(self.path), context.threads)
        shutil.copyfile(self.path, context.folder / "features.onnx")
        context.log(f"{network.dimensions} features of {network.intake}")
        return FeatureNet(
            source="onnx",
            channels=network.intake.channels,
            size=network.intake.size,
            dimensions=network.dimensions,
            file="features.onnx",
        )

    @property
    def _folder(self) -> Path:
        return Path(self.path).expanduser()

    def _of_transformers(self, context: JobContext) -> FeatureNet:
        from slimctl.jobs.evaluation.transformer_features import read_folder, read_weights
        from slimctl.jobs.storage.tensors import save_weights

        found = read_folder(self._folder)
        save_weights(read_weights(found), context.folder / "weights.safetensors")
        spec = found.spec
        context.log(f"{spec.dimensions} features of {spec.family}, images at {spec.size} px")
        network = spec.model_dump(mode="json")
        return FeatureNet(source="transformers", network=network, dimensions=spec.dimensions)

    def fingerprint(self) -> dict[str, str]:
        if not self._folder.is_dir():
            return super().fingerprint()
        from slimctl.jobs.evaluation.transformer_features import folder_files

        return {"path": content_of_files(folder_files(self._folder), self._folder)}

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        if self._folder.is_dir():
            from slimctl.jobs.evaluation.transformer_features import folder_files

            try:
                folder_files(self._folder)
            except UserError as error:
                raise FieldError("path", f"'{self.path}' {error.what}", error.fix) from error
            return Facts()
        if not Path(self.path).expanduser().is_file():
            what = f"there is no file '{self.path}'"
            raise MissingFile("path", what, "name an ONNX file with a feature network, or a folder")
        return Facts()

    def preflight(self) -> Facts | None:
        if self._folder.is_dir():
            from slimctl.jobs.evaluation.transformer_features import read_folder

            return Facts(intake=Intake(), dimensions=read_folder(self._folder).spec.dimensions)
        from slimctl.jobs.evaluation.onnx_features import open_onnx

        if Path(self.path).stat().st_size > PREFLIGHT_BYTES:
            return None
        network = open_onnx(Path(self.path))
        return Facts(intake=network.intake, dimensions=network.dimensions)
