"""Prompts of the store as the conditions of a network: rows by number, and the encoders.

Rows are kept on the device where all of them fit in a small share of its memory; else they are read
as they are asked for, and those of the last batch stay, since a solver asks for them at every step.
"""

import json
import tempfile
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from slimctl.jobs.base.artifacts import (
    EmbeddedPrompts,
    EncoderFiles,
    Fleet,
    Flow,
    Generator,
    Partition,
    PromptSet,
)
from slimctl.jobs.base.errors import UserError, what_and_fix
from slimctl.jobs.storage.rows import FileRows
from slimctl.jobs.storage.store import Store
from slimctl.models.conditions import NO_TEXT, Among, Embedded, Marginal, Texts
from slimctl.models.routing import TextRouter
from slimctl.models.text import TextEncoders

RESIDENT_BYTES = 2**28
"""Rows up to this size are all kept on the device."""
VECTORS = 1024
"""Prompts whose vectors are made at once."""
DTYPES = {"float16": torch.float16, "float32": torch.float32}


class PromptTexts(Texts):
    """Embedded prompts of the store.

    Args:
        store: where they are.
        prompts: which; None = there are only encoders.
        encoder: what encodes other prompts; None = that of `prompts`.
    """

    def __init__(
        self, store: Store, prompts: EmbeddedPrompts | None, encoder: EncoderFiles | None = None
    ) -> None:
        self._store = store
        self._prompts = prompts
        self._encoder = encoder or (prompts.encoder if prompts else None)
        self._last: tuple[Tensor, Embedded] | None = None
        self._whole: Embedded | None = None
        self._device = torch.device("cpu")
        self.numbered = prompts is not None

    def encode(
        self, prompts: str | Sequence[str], sizes: Sequence[float | int] | None = None
    ) -> Embedded:
        try:
            return self._encoders.encode(prompts, sizes)
        except ValueError as error:
            raise UserError("prompt", *what_and_fix(error)) from error

    def null(self) -> Embedded:
        return self._null if self._prompts else self._encoders.null()

    def rows(self, number: Tensor) -> Embedded:
        if self._prompts is None:
            return super().rows(number)
        self._device = number.device
        asked, place = torch.unique(number.cpu(), return_inverse=True)
        if self._whole is None and self._prompts.encode == "ahead" and self._is_small:
            every = torch.arange(NO_TEXT, self._prompts.count)
            self._whole = self._read(every).to(number.device)
        if self._whole is not None:
            return self._whole.to(number.device)[number - NO_TEXT]
        if self._last is None or not torch.equal(self._last[0], asked):
            self._last = asked, self._read(asked).to(number.device)
        return self._last[1][place.to(number.device)]

    def vectors(self) -> Tensor:
        """A vector for each whole prompt, (count, D), in the type that rows are kept in."""
        prompts = self._prompts
        assert prompts is not None
        made = []
        for number in torch.split(torch.arange(prompts.count), VECTORS):
            if prompts.pooled and not self._is_on_the_fly:
                made.append(self._columns["pooled"].read(number))
            else:
                made.append(self._read(number).vector().to(DTYPES[prompts.dtype]))
        return torch.cat(made)

    @property
    def _is_small(self) -> bool:
        """Whether all rows fit in memory, as float32."""
        prompts = self._prompts
        assert prompts is not None
        each = 4 * (prompts.tokens * prompts.width + (prompts.pooled or 0))
        return (prompts.count + 1) * each <= RESIDENT_BYTES

    def _read(self, number: Tensor) -> Embedded:
        """Rows of rising numbers, on the CPU, float32; the first may be that of no text."""
        empty = number == NO_TEXT
        given = number[~empty]
        if len(given) == 0:
            return self._null[torch.zeros(len(number), dtype=torch.int64)]
        made = self._encoded(given) if self._is_on_the_fly else self._stored(given)
        return _joined(self._null, made) if bool(empty.any()) else made

    @property
    def _is_on_the_fly(self) -> bool:
        return self._prompts is not None and self._prompts.encode == "on_the_fly"

    def _stored(self, number: Tensor) -> Embedded:
        columns = {name: rows.read(number) for name, rows in self._columns.items()}
        extra = self._null.extra
        return Embedded(
            columns["sequence"].float(),
            columns["mask"].to(torch.int64) if "mask" in columns else None,
            columns["pooled"].float() if "pooled" in columns else None,
            None if extra is None else extra.expand(len(number), -1),
        )

    def _encoded(self, number: Tensor) -> Embedded:
        """Rows as they would have been stored, made now."""
        assert self._prompts is not None
        texts = [self._texts[each] for each in number.tolist()]
        made = self._encoders.encode(texts)
        return rounded(made, DTYPES[self._prompts.dtype]).to("cpu")

    @cached_property
    def _columns(self) -> dict[str, FileRows]:
        prompts = self._prompts
        assert prompts is not None
        paths, dtype = self._store.shards(prompts.shards), DTYPES[prompts.dtype]
        kinds: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "sequence": (dtype, (prompts.tokens, prompts.width))
        }
        if prompts.masked:
            kinds["mask"] = (torch.uint8, (prompts.tokens,))
        if prompts.pooled:
            kinds["pooled"] = (dtype, (prompts.pooled,))
        return {
            name: FileRows(paths, prompts.shard_size, name, *kind) for name, kind in kinds.items()
        }

    @cached_property
    def _null(self) -> Embedded:
        assert self._prompts is not None
        parts = load_file(self._store.file(self._prompts, self._prompts.null))
        mask = parts["mask"].to(torch.int64) if "mask" in parts else None
        pooled, extra = (
            parts[name].float() if name in parts else None for name in ("pooled", "extra")
        )
        return Embedded(parts["sequence"].float(), mask, pooled, extra)

    @cached_property
    def _texts(self) -> list[str]:
        assert self._prompts is not None
        return read_texts(self._store, self._prompts.prompts)

    @property
    def _encoders(self) -> TextEncoders:
        if self._encoder is None:
            raise ValueError("this flow has no encoder of texts")
        return open_encoders(self._store, self._encoder, str(self._device))


def rounded(text: Embedded, dtype: torch.dtype) -> Embedded:
    """Embedded texts as the store keeps them, in float32 again."""
    pooled = None if text.pooled is None else text.pooled.to(dtype).float()
    return Embedded(text.sequence.to(dtype).float(), text.mask, pooled, text.extra)


def _joined(first: Embedded, second: Embedded) -> Embedded:
    def both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
        return None if one is None or other is None else torch.cat((one, other))

    sequence = torch.cat((first.sequence, second.sequence))
    parts = (both(getattr(first, n), getattr(second, n)) for n in ("mask", "pooled", "extra"))
    return Embedded(sequence, *parts)


def read_texts(store: Store, prompts: PromptSet) -> list[str]:
    """The prompts of a set.

    Raises:
        DamagedArtifact: the file is not what its manifest says.
    """
    with store.file(prompts, prompts.file).open(encoding="utf-8") as lines:
        return [json.loads(line)["prompt"] for line in lines]


def read_prompt_labels(store: Store, prompts: PromptSet) -> Tensor:
    """The class that each prompt asks for, int64 (count,), -1 where it is not known."""
    with store.file(prompts, prompts.file).open(encoding="utf-8") as lines:
        return torch.tensor([json.loads(line).get("label", -1) for line in lines])


@cache
def open_encoders(store: Store, encoder: EncoderFiles, device: str) -> TextEncoders:
    """The encoders of the store, which are kept for the life of the process.

    Raises:
        DamagedArtifact: a file is not what it was.
        UserError: the package that runs them is not installed.
    """
    folder = Path(tempfile.mkdtemp(prefix="slimctl-encoder-"))
    for file, path in zip(encoder.files, store.shards(encoder.files), strict=True):
        place = folder / file.path.removeprefix(encoder.root + "/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path)
    known = encoder.pipeline, encoder.pixels, encoder.width, encoder.length
    return TextEncoders(folder, *known, device=device)


def texts_of(store: Store, model: Flow | Generator) -> PromptTexts | None:
    """What a model of the store is told of texts; None where it takes none."""
    encoder = model.encoder if isinstance(model, Flow) else None
    if model.prompts is None and encoder is None:
        return None
    return PromptTexts(store, model.prompts, encoder)


def marginal_of(store: Store, model: Flow | Generator | Fleet) -> Marginal:
    """The labels that a model serves, as they are drawn.

    Raises:
        DamagedArtifact: the partition is not what its manifest says.
    """
    if model.prompts is None:
        return model.label_counts
    if isinstance(model, Fleet) or model.part is None:
        return Among(model.prompts.count)
    partition = store.load(model.partition, Partition)
    return Among(model.prompts.count, part_numbers(store, partition, model.part))


def part_numbers(store: Store, partition: Partition, part: int) -> Tensor:
    """Numbers of the prompts of a part, rising, int64."""
    return (read_parts(store, partition) == part).nonzero().squeeze(1)


def open_router(store: Store, partition: Partition) -> TextRouter:
    """What says which part a text belongs to.

    Raises:
        DamagedArtifact: the file is not what its manifest says.
    """
    held = load_file(store.file(partition, partition.file))
    return TextRouter(held["centres"], held["prices"], held["part"].long())


def read_parts(store: Store, partition: Partition) -> Tensor:
    """The part of each prompt, int64 (count,)."""
    found: Tensor = load_file(store.file(partition, partition.file))["part"]
    return found.long()
