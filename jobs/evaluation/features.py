"""Feature networks of the store, ready to turn images into rows of a table."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from slimctl.jobs.base.artifacts import Dataset, FeatureNet
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.turns import computing
from slimctl.jobs.evaluation.onnx_features import open_onnx
from slimctl.jobs.evaluation.transformer_features import (
    TransformerFeatures,
    TransformerSpec,
    build,
)
from slimctl.jobs.storage.store import Store
from slimctl.jobs.storage.tensors import image_batches, load_labels, load_weights
from slimctl.models.networks.classifier.spec import ClassifierSpec
from slimctl.models.partition import Matrix
from slimctl.models.perceptual.inception import Inception
from slimctl.models.pixels import to_float

IMAGES_READ = 1000
"""Images that are read at once."""
FEATURE_BATCH = 100
"""Images that go through a network at once: 100 of Inception's need about 2 GB."""

Extract = Callable[[Tensor], Tensor]
"""uint8 images (B, C, H, W) on a device to features (B, D)."""


@dataclass(frozen=True)
class Features:
    """A feature network on a device."""

    extract: Extract
    device: torch.device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of uint8 images (N, C, H, W): float32 (N, D) on the CPU.

        Samples go through 8 bits like the real images, as published FIDs do.
        """
        return self.on_device(images).cpu()

    @torch.no_grad()
    def on_device(self, images: Tensor) -> Tensor:
        """The same features where the network left them."""
        parts = [self._part(part) for part in torch.split(images, FEATURE_BATCH)]
        return torch.cat(parts)

    def _part(self, images: Tensor) -> Tensor:
        with computing():
            return self.extract(images.to(self.device)).float()


def open_features(
    store: Store, handle: FeatureNet, device: torch.device, threads: int = 1
) -> Features:
    """The feature network of the store, frozen, on a device."""
    openers = {
        "classifier": _classifier,
        "onnx": _onnx,
        "inception": _inception,
        "transformers": _transformer,
    }
    return Features(openers[handle.source](store, handle, device, threads), device)


def _classifier(store: Store, handle: FeatureNet, device: torch.device, threads: int) -> Extract:
    del threads  # torch has its own
    assert handle.image is not None
    network = ClassifierSpec.model_validate(handle.network).build(handle.image)
    load_weights(network, store, handle)
    network = network.to(device).eval().requires_grad_(requires_grad=False)

    def extract(images: Tensor) -> Tensor:
        return network.features(to_float(images))

    return extract


def _onnx(store: Store, handle: FeatureNet, device: torch.device, threads: int) -> Extract:
    del device
    network = open_onnx(store.file(handle, handle.file), threads, where=handle.id)

    def extract(images: Tensor) -> Tensor:
        return torch.from_numpy(network(to_float(images.cpu()).numpy()))

    return extract


def _inception(store: Store, handle: FeatureNet, device: torch.device, threads: int) -> Extract:
    del threads
    network = Inception()
    load_weights(network, store, handle)
    return network.to(device).eval().requires_grad_(requires_grad=False)


def _transformer(store: Store, handle: FeatureNet, device: torch.device, threads: int) -> Extract:
    del threads
    spec = TransformerSpec.model_validate(handle.network)
    network = build(spec)
    load_weights(network, store, handle)
    made = TransformerFeatures(spec, network).to(device).eval()
    return made.requires_grad_(requires_grad=False)


def class_means(context: JobContext, data: Dataset, features: FeatureNet) -> Matrix:
    """Mean features of the real images of each class: (classes, dimensions).

    A class without images lies at the mean of all images.

    Raises:
        DamagedArtifact: a file is not what its manifest says.
    """
    label = load_labels(context.store, data)
    assert label is not None  # checked: the data has classes
    extract = open_features(context.store, features, torch.device(context.device))
    parts = [extract(images) for images in image_batches(context.store, data, IMAGES_READ)]
    vectors = torch.cat(parts).double()
    means = vectors.mean(dim=0).repeat(data.image.classes, 1)
    for each in label.unique().tolist():  # type: ignore[no-untyped-call]
        means[each] = vectors[label == each].mean(dim=0)
    return means.numpy()
