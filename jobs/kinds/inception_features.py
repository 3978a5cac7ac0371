"""The feature network of published FIDs, from a weight file that the user has."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from slimctl.jobs.base.artifacts import FeatureNet
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError, what_and_fix
from slimctl.jobs.base.facts import Facts, Intake
from slimctl.jobs.base.fingerprint import PublishedFile, require_checksum, require_file
from slimctl.jobs.base.spec import BY_CONTENT, JobSpec
from slimctl.models.perceptual.cost import INCEPTION_MACS

PUBLISHED = PublishedFile(
    "weights-inception-2015-12-05-6726825d.pth", "release v0.2.0 of toshas/torch-fidelity on GitHub"
)
DIMENSIONS = 2048


class InceptionFeatures(JobSpec):
    """Inception of 2015-12-05: FIDs taken with it compare with those of papers.

    Source:
        Heusel et al., arXiv 1706.08500; weights and layout as torch-fidelity publishes them.
    """

    weights: Annotated[str, BY_CONTENT]
    """torch-fidelity's weights-inception-2015-12-05-6726825d.pth; copied into the result."""

    def run(self, context: JobContext) -> FeatureNet:
        from slimctl.jobs.storage.tensors import save_weights
        from slimctl.models.perceptual.inception import UNUSED, Inception
        from slimctl.models.perceptual.weight_file import fill, read_weight_file

        network = Inception()
        try:
            fill(network, read_weight_file(Path(self.weights)), ignored=UNUSED)
        except ValueError as error:
            what, fix = what_and_fix(error)
            fix = fix or f"give {PUBLISHED.name}, from {PUBLISHED.place}"
            raise UserError(f"job '{context.job}', weights", what, fix) from error
        save_weights(network.state_dict(), context.folder / "weights.safetensors")
        return FeatureNet(source="inception", channels=3, dimensions=DIMENSIONS)

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        made = Facts(intake=Intake(channels=3), dimensions=DIMENSIONS, feature_macs=INCEPTION_MACS)
        require_file(self.weights, "weights", PUBLISHED, made)
        return made

    def preflight(self) -> Facts | None:
        require_checksum(self.weights, "weights")
        return None
