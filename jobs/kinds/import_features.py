"""Takes a feature network from outside, as an ONNX file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from slimctl.jobs.base.artifacts import FeatureNet
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, MissingFile
from slimctl.jobs.base.spec import BY_CONTENT, JobSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFLIGHT_BYTES = 64 * 2**20
"""Networks up to this size are tried before anything starts; larger ones when the job runs."""


class ImportFeatures(JobSpec):
    """Any feature network: ONNX with input (B, C, H, W) float32 in [-1, 1] and output (B, D)."""

    path: Annotated[str, BY_CONTENT]
    """The ONNX file; it is copied into the result."""

    def run(self, context: JobContext) -> FeatureNet:
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

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        if not Path(self.path).expanduser().is_file():
            what = f"there is no file '{self.path}'"
            raise MissingFile("path", what, "name an ONNX file with a feature network")
        return Facts()

    def preflight(self) -> Facts | None:
        from slimctl.jobs.evaluation.onnx_features import open_onnx

        if Path(self.path).stat().st_size > PREFLIGHT_BYTES:
            return None
        network = open_onnx(Path(self.path))
        return Facts(intake=network.intake, dimensions=network.dimensions)
