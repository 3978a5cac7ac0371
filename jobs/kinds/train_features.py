"""Trains a small classifier whose inner features serve the metrics."""

from collections.abc import Mapping

from pydantic import Field

from slimctl.jobs.base.artifacts import Dataset, FeatureNet
from slimctl.jobs.base.cluster import TRAINING, Work
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.facts import Facts, FieldError, without_labels
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.spec import SeededJobSpec
from slimctl.jobs.training.spec import check_network
from slimctl.models.networks.classifier.spec import ClassifierSpec

CLEAR = 1.5
"""Accuracy over that of guessing from which on a classifier has clearly learned something."""


class TrainFeatures(SeededJobSpec):
    """A classifier of the data's own classes; distances on its features compare in a pipeline."""

    data: Ref[Dataset]
    """Labelled images."""
    network: ClassifierSpec = ClassifierSpec(kind="classifier")
    """Architecture."""
    steps: int = Field(default=1000, ge=1)
    """Optimizer steps."""
    shift: int = Field(default=1, ge=0, le=64)
    """Largest shift of the training images in each direction, px; 0 = none. Without it a small
    data set is learned by heart, and its features set apart even good samples."""
    batch_size: int = Field(default=128, ge=1)
    """Images per step."""
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    """AdamW's peak learning rate; it falls to 0 by a half cosine."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """Share of the images kept back to measure the accuracy, 0..1."""

    def wants_gpu(self) -> bool:
        return True

    def run(self, context: JobContext) -> FeatureNet:
        import torch

        from slimctl.jobs.storage.tensors import load_dataset_tensors, save_weights
        from slimctl.jobs.training.classifier import train_classifier

        data = context.input(self.data)
        images, labels = load_dataset_tensors(context.store, data)
        device = torch.device(context.device)
        torch.set_num_threads(context.threads)
        trained = train_classifier(self, images, labels, data, device, context.progress)
        save_weights(trained.weights, context.folder / "weights.safetensors")
        context.log(f"accuracy {trained.accuracy:.3f} on held-out images")
        chance = max(data.label_counts) / sum(data.label_counts)
        if trained.accuracy < min(CLEAR * chance, (1.0 + chance) / 2.0):
            context.warn(
                f"the classifier is right on {trained.accuracy:.0%} of held-out images, guessing "
                f"would be on {chance:.0%}: its features, and every FID on them, mean little; "
                "train it longer or on more images"
            )
        return FeatureNet(
            image=data.image,
            network=self.network.model_dump(mode="json"),
            dimensions=trained.dimensions,
            accuracy=trained.accuracy,
        )

    def _too_few(self, classes: int, seen: int | None) -> tuple[str, str]:
        """What is wrong with data of one class, and what to do."""
        has = "no labels" if classes == 0 else "1 class" if classes == 1 else f"{classes} classes"
        if classes > 1 and seen is not None:
            has += f", of which {seen} with images"
        return (
            f"'{self.data.job}' has {has}, but features are learned by telling classes apart",
            "use a labelled data set of two classes or more, or leave out this job and evaluate",
        )

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        image = inputs["data"].image
        seen = inputs["data"].classes_seen
        if image is not None and min(image.classes, image.classes if seen is None else seen) < 2:
            what, fix = self._too_few(image.classes, seen)
            _, better = without_labels(inputs["data"], self.data.job)
            raise FieldError("data", what, better or fix)
        if image is not None:
            check_network(self.network, image)
        macs = None if image is None else self.network.size(image).macs
        return Facts(image=image, dimensions=self.network.features, feature_macs=macs)

    def work(self, inputs: Mapping[str, Facts]) -> Work | None:
        image = inputs["data"].image
        if image is None:
            return None
        size = self.network.size(image)
        flop = TRAINING * size.macs * self.steps * self.batch_size
        return Work(size.parameters, size.macs, flop)
