"""Images, pairs and weights of the store as tensors."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from slimctl.jobs.base.artifacts import (
    Autoencoder,
    Averages,
    Dataset,
    FeatureNet,
    Flow,
    Generator,
    Handle,
    LatentSet,
)
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage.rows import FileRows
from slimctl.jobs.storage.store import Store
from slimctl.models.ema import profile_exponent, reconstruction

PIECE = 4096
"""Images read at once where only some are wanted."""


def load_dataset_tensors(store: Store, dataset: Dataset) -> tuple[Tensor, Tensor | None]:
    """Images uint8 (N, C, H, W) and labels int64 (N,) or None.

    Raises:
        DamagedArtifact: the file is not what its manifest says.
    """
    if dataset.shards:
        images = dataset_rows(store, dataset).read(torch.arange(dataset.count))
        return channels_first(images), load_labels(store, dataset)
    tensors = load_file(store.file(dataset, dataset.file))
    return channels_first(tensors["images"]), tensors.get("labels")


def dataset_rows(store: Store, dataset: Dataset) -> FileRows:
    """Random access to the images of a data set, uint8 (H, W, C) each.

    Raises:
        DamagedArtifact: a file is not what its manifest says.
    """
    shape = (dataset.image.size, dataset.image.size, dataset.image.channels)
    if dataset.shards:
        paths, counts = store.shards(dataset.shards), dataset.shard_counts
        return FileRows(paths, counts, "images", torch.uint8, shape)
    path = store.file(dataset, dataset.file)
    return FileRows([path], dataset.count, "images", torch.uint8, shape)


def load_labels(store: Store, dataset: Dataset) -> Tensor | None:
    """Labels int64 (N,), or None, without reading the images.

    Raises:
        DamagedArtifact: the file is not what its manifest says.
    """
    with safe_open(store.file(dataset, dataset.file), framework="pt") as file:
        return file.get_tensor("labels") if "labels" in file.keys() else None  # noqa: SIM118


def image_batches(store: Store, dataset: Dataset, size: int) -> Iterator[Tensor]:
    """Images uint8 (B, C, H, W) in order, `size` at a time, without holding all of them.

    Raises:
        DamagedArtifact: the file is not what its manifest says.
    """
    if dataset.shards:
        rows = dataset_rows(store, dataset)
        for first in range(0, dataset.count, size):
            last = min(dataset.count, first + size)
            yield channels_first(rows.read(torch.arange(first, last)))
        return
    with safe_open(store.file(dataset, dataset.file), framework="pt") as file:
        images = file.get_slice("images")
        for first in range(0, dataset.count, size):
            yield channels_first(images[first : first + size])


def load_images(store: Store, dataset: Dataset, index: Tensor | None = None) -> Tensor:
    """Images uint8 (N, C, H, W): all, or those of an ascending index.

    Raises:
        DamagedArtifact: the file is not what its manifest says.
    """
    if index is None:
        return load_dataset_tensors(store, dataset)[0]
    parts, first = [], 0
    for batch in image_batches(store, dataset, PIECE):
        here = index[(index >= first) & (index < first + len(batch))]
        parts.append(batch[here - first])
        first += len(batch)
    return torch.cat(parts)


def load_latents(store: Store, data: LatentSet) -> Tensor:
    """All latents of a set, float16 (N, C, H, W).

    Raises:
        DamagedArtifact: a shard is not what the set says.
    """
    return torch.cat([load_file(path)["x1"] for path in store.shards(data.shards)])


def load_part(
    store: Store, data: Dataset | LatentSet, labels: tuple[int, ...] | None, *, conditional: bool
) -> tuple[Tensor, Tensor | None]:
    """Images uint8 (N, C, H, W), and their labels int64 (N,) if the model is conditional.

    Latents are float16. Images of other labels than those given are left out; None = all images.

    Raises:
        UserError: there is no image of these labels.
        DamagedArtifact: the file is not what its manifest says.
    """
    if isinstance(data, LatentSet):
        images, label = load_latents(store, data), load_labels(store, data.dataset)
    else:
        images, label = load_dataset_tensors(store, data)
    if labels is not None and label is not None:
        rows = _of_labels(label, labels)
        images, label = images[rows], label[rows]
    if len(images) == 0 or (labels is not None and label is None):
        raise _no_image(data, labels)
    return images, label if conditional else None


@dataclass(frozen=True)
class PartRows:
    """The images of some labels, in their file."""

    rows: FileRows
    """Of all images: uint8 (H, W, C); latents are float16 (C, H, W)."""
    label: Tensor | None
    """Labels of all images, int64 (N,)."""
    index: Tensor | None
    """Numbers of the images of these labels; None = all."""
    count: int
    """Their number."""

    def images(self, number: Tensor) -> Tensor:
        """The images of these labels by number, 0..count-1 on the CPU: uint8 (B, C, H, W)."""
        return channels_first(self.rows.read(number if self.index is None else self.index[number]))


def channels_first(images: Tensor) -> Tensor:
    """Images (B, H, W, C), as files hold them, as networks take them: (B, C, H, W)."""
    return images.permute(0, 3, 1, 2).contiguous()


def part_rows(store: Store, data: Dataset | LatentSet, labels: tuple[int, ...] | None) -> PartRows:
    """What `load_part` loads, to be read row by row.

    Raises:
        UserError: there is no image of these labels.
        DamagedArtifact: the file is not what its manifest says.
    """
    label = load_labels(store, data.dataset if isinstance(data, LatentSet) else data)
    index = None
    if labels is not None:
        index = torch.empty(0) if label is None else _of_labels(label, labels)
    count = data.count if index is None else len(index)
    if count == 0:
        raise _no_image(data, labels)
    if isinstance(data, LatentSet):
        shape = (data.image.channels, data.image.size, data.image.size)
        paths = store.shards(data.shards)
        rows = FileRows(paths, data.shard_size, "x1", torch.float16, shape)
        return PartRows(rows, label, index, count)
    return PartRows(dataset_rows(store, data), label, index, count)


def _of_labels(label: Tensor, labels: tuple[int, ...]) -> Tensor:
    return torch.isin(label, torch.tensor(labels)).nonzero().squeeze(1)


def _no_image(data: Dataset | LatentSet, labels: tuple[int, ...] | None) -> UserError:
    return UserError(
        data.id,
        f"has no image of the labels {', '.join(map(str, labels or ()))}",
        "use a labelled data set with images of every part, or another partition",
    )


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Writes tensors as safetensors."""
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, path)


DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""The names of number types in a safetensors file."""


def safetensors_pieces(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The bytes of a safetensors file, piece by piece, without a copy of contiguous tensors.

    Args:
        tensors: on the CPU.

    Source: the format at github.com/huggingface/safetensors: the length of the header, 8 bytes
        little-endian; the header, JSON, with spaces up to a multiple of 8; the tensors, without
        gaps.
    """
    header, end = {}, 0
    # The widest numbers come first, so that each tensor begins at a multiple of its own width.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    for name, value in ordered:
        start, end = end, end + value.nbytes
        shape, kind = list(value.shape), DTYPES[value.dtype]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for _, value in ordered:
        if value.numel():
            yield value.contiguous().view(-1).view(torch.uint8).numpy().data


def load_weights(
    network: nn.Module, store: Store, handle: Flow | Generator | FeatureNet | Autoencoder
) -> None:
    """Fills a network with an artifact's weights.

    Raises:
        UserError: a tensor is missing, unexpected or has another shape; all are listed.
    """
    averages = getattr(handle, "averages", None)
    if averages is not None and averages.wanted is not None:
        weights = _reconstructed(store, handle, averages)
    else:
        weights = load_file(store.file(handle, handle.file))
    own = network.state_dict()
    problems = [f"{name} is missing" for name in own.keys() - weights.keys()]
    problems += [f"{name} is unexpected" for name in weights.keys() - own.keys()]
    problems += [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own.keys() & weights.keys()
        if own[name].shape != weights[name].shape
    ]
    if problems:
        raise UserError(
            handle.id,
            f"its weights do not fit the network: {'; '.join(sorted(problems))}",
            "use the architecture that these weights were made with",
        )
    network.load_state_dict(weights)


def average_file(step: int) -> str:
    """Name of the snapshot of the averages after so many optimizer steps."""
    return f"averages-{step:09d}.safetensors"


def _reconstructed(store: Store, handle: Handle, averages: Averages) -> dict[str, Tensor]:
    """The weights of the average of the wanted length, at the last step.

    Entries that are no numbers to average, such as counters, are those of the last snapshot.
    """
    assert averages.wanted is not None
    exponents = [profile_exponent(length) for length in averages.lengths]
    kept = [(step, exponent) for step in averages.steps for exponent in exponents]
    shares = reconstruction(kept, averages.steps[-1], profile_exponent(averages.wanted))
    made: dict[str, Tensor] = {}
    for at, step in enumerate(averages.steps):
        tensors = load_file(store.file(handle, average_file(step)))
        for name, value in tensors.items():
            number, _, own = name.partition(".")
            if value.is_floating_point():
                share = shares[2 * at + int(number)]
                made[own] = made.get(own, torch.zeros((), dtype=torch.float64)) + share * value
            else:
                made[own] = value
    return {n: v.float() if v.is_floating_point() else v for n, v in made.items()}
