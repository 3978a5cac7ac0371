"""Texts as conditions: what the encoders of a folder make of prompts.

Every pipeline of diffusers has its own way from prompts to what its network takes (`RECIPES`), and
a folder of a sentence encoder one more; the encoders themselves are those of the package
transformers, which is imported when the first prompt is encoded. Nothing but safetensors is read.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from slimctl.models.conditions import Embedded, Texts
from slimctl.models.shapes import Int, Tensor
from slimctl.models.text_files import (
    ENCODERS,
    INDEX,
    SENTENCE,
    SENTENCE_ENCODERS,
    read_config,
    sentence_class,
)

NEEDS_TRANSFORMERS = (
    "texts are encoded by the package transformers, which is not installed"
    "\n  fix: pip install 'slimctl[text]'"
)
LONGEST: Mapping[str, int] = {
    "StableDiffusion3Pipeline": 256,
    "FluxPipeline": 512,
    "PixArtAlphaPipeline": 120,
}
"""Tokens that T5 is given by a pipeline, unless its tokenizer takes fewer."""


class TextEncoders(Texts):
    """The tokenizers and encoders of a folder, loaded when they are used.

    Args:
        folder: the folder of the pipeline, or of the sentence encoder.
        pipeline: class of the pipeline, one of `RECIPES`.
        pixels: height and width of the images, px, which some networks are told.
        width: what the network takes of each token, for an encoder that is left out.
        length: tokens of a sentence; None = as many as the encoder takes. Pipelines say it.
        device: where the encoders compute.

    Attributes:
        cut: prompts that were too long, so far.
    """

    def __init__(
        self,
        folder: Path,
        pipeline: str,
        pixels: int,
        width: int = 0,
        length: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.folder = folder
        self.pipeline = pipeline
        self.pixels = pixels
        self.width = width
        self.length = length
        self.device = device
        self.cut = 0
        self._parts: dict[str, Any] = {}
        self._null: Embedded | None = None

    def encode(
        self, prompts: str | Sequence[str], sizes: Sequence[float | int] | None = None
    ) -> Embedded:
        """The prompts as the network takes them, one a row, float32.

        Args:
            prompts: at least one; those that are too long are cut, with a warning.
            sizes: what a network is told of sizes, where it takes that; None = its own images,
                whole.

        Raises:
            ValueError: transformers is not installed, the folder lacks an encoder, there is no
                prompt, or sizes are given to a network that takes none.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not texts or not all(isinstance(each, str) for each in texts):
            raise ValueError("these are no prompts\n  fix: give at least one string")
        with torch.no_grad():
            made = RECIPES[self.pipeline](self, texts)
        told = self._sizes(sizes)
        if told is None:
            return made
        extra = told.to(made.sequence.device).expand(len(texts), -1)
        return Embedded(made.sequence, made.mask, made.pooled, extra)

    def null(self) -> Embedded:
        """The text that stands for none, a single row."""
        if self._null is None:
            empty = self.encode("")
            if self._zeros:
                pooled = None if empty.pooled is None else torch.zeros_like(empty.pooled)
                zeros = torch.zeros_like(empty.sequence)
                empty = Embedded(zeros, empty.mask, pooled, empty.extra)
            self._null = empty
        return self._null

    def ids(self, prompts: Sequence[str], number: int = 1) -> Int[Tensor, "b n"]:
        """The tokens of prompts by the tokenizer of a number, 1, 2 or 3."""
        ids: Tensor = self._tokens(list(prompts), number).input_ids
        return ids

    @cached_property
    def _index(self) -> Mapping[str, Any]:
        return read_config(self.folder / INDEX)

    @property
    def _zeros(self) -> bool:
        """Whether zeros stand for no text, not the empty prompt."""
        is_xl = self.pipeline == "StableDiffusionXLPipeline"
        return is_xl and bool(self._index.get("force_zeros_for_empty_prompt", True))

    def _sizes(self, given: Sequence[float | int] | None) -> Tensor | None:
        usual = SIZES.get(self.pipeline)
        if usual is None:
            if given is not None:
                raise ValueError("this network takes no sizes\n  fix: leave sizes out")
            return None
        told = usual(float(self.pixels)) if given is None else tuple(map(float, given))
        if len(told) != len(usual(0.0)):
            raise ValueError(f"sizes are {len(told)} numbers, not {len(usual(0.0))}")
        return torch.tensor([told])

    def has(self, number: int) -> bool:
        """Whether the pipeline has an encoder of that number."""
        return self._class(f"text_encoder{_ending(number)}") is not None

    def _class(self, part: str) -> str | None:
        entry = self._index.get(part) or (None, None)
        name: str | None = entry[1]
        return name

    def _tokens(self, texts: list[str], number: int) -> Any:
        """Token ids and mask, padded to the length that the pipeline gives its encoder."""
        if self.pipeline == "PixArtAlphaPipeline":
            texts = [each.lower().strip() for each in texts]
        tokenizer = self._part("tokenizer", number)
        longest = tokenizer.model_max_length
        if self.pipeline == SENTENCE:
            longest = min(longest, self.length or longest)
        elif self._class(f"text_encoder{_ending(number)}") == "T5EncoderModel":
            longest = min(longest, LONGEST[self.pipeline])
        lengths = [len(ids) for ids in tokenizer(texts, truncation=False, verbose=False).input_ids]
        for text, length in zip(texts, lengths, strict=True):
            if length > longest:
                what = f"a prompt of {length} tokens is cut to {longest}: {text[:60]!r}..."
                warnings.warn(what, stacklevel=2)
        if number == 1:
            self.cut += sum(length > longest for length in lengths)
        return tokenizer(
            texts, padding="max_length", max_length=longest, truncation=True, return_tensors="pt"
        ).to(self.device)

    def run(self, texts: list[str], number: int, *, masked: bool = False) -> tuple[Any, Tensor]:
        """What an encoder answers, with all its layers, and the mask of the tokens."""
        tokens = self._tokens(texts, number)
        model = self._part("text_encoder", number)
        mask = tokens.attention_mask if masked else None
        answer = model(tokens.input_ids, attention_mask=mask, output_hidden_states=True)
        return answer, tokens.attention_mask

    def _part(self, kind: str, number: int) -> Any:
        name = f"{kind}{_ending(number)}"
        if name not in self._parts:
            if self.pipeline == SENTENCE:
                found = _load(self.folder, sentence_class(self.folder), kind, SENTENCE_ENCODERS)
            else:
                found = _load(self.folder / name, self._class(name), kind, ENCODERS)
            self._parts[name] = found if kind == "tokenizer" else found.to(self.device)
        return self._parts[name]


def _ending(number: int) -> str:
    return "" if number == 1 else f"_{number}"


def _load(folder: Path, cls: str | None, kind: str, known: frozenset[str]) -> Any:
    """A tokenizer or an encoder of transformers, by the class that the folder names."""
    if find_spec("transformers") is None:
        raise ValueError(NEEDS_TRANSFORMERS)
    if cls is None or not folder.is_dir():
        raise ValueError(f"has no {folder.name} to encode texts\n  fix: copy the whole folder")
    import transformers  # noqa: PLC0415  (six seconds)

    transformers.utils.logging.disable_progress_bar()
    try:
        if kind == "tokenizer":
            return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if cls not in known:
            raise ValueError(
                f"{folder.name} is a {cls}, which this program does not know"
                f"\n  fix: give a folder whose encoders are {', '.join(sorted(known))}"
            )
        model = getattr(transformers, cls).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{folder.name} cannot be read ({reason}); only safetensors are"
            "\n  fix: write the folder again with safe_serialization=True"
        ) from error
    return model.eval().requires_grad_(False)


def _clip(text: TextEncoders, texts: list[str]) -> Embedded:
    """Stable Diffusion 1 and 2: the last layer of CLIP, after its norm."""
    answer, _ = text.run(texts, 1)
    return Embedded(answer.last_hidden_state, pooled=answer.pooler_output)


def _two_clips(text: TextEncoders, texts: list[str]) -> tuple[Tensor, list[Tensor]]:
    """The last layer but one of two CLIPs side by side, and the first output of each."""
    answers = [text.run(texts, number)[0] for number in (1, 2)]
    return torch.cat([each.hidden_states[-2] for each in answers], -1), [
        each[0] for each in answers
    ]


def _xl(text: TextEncoders, texts: list[str]) -> Embedded:
    """Stable Diffusion XL: two CLIPs, and the projection of the second."""
    sequence, pooled = _two_clips(text, texts)
    return Embedded(sequence, pooled=pooled[1])


def _sd3(text: TextEncoders, texts: list[str]) -> Embedded:
    """Stable Diffusion 3: two CLIPs padded with zeros to T5's width, and T5 behind them."""
    clips, pooled = _two_clips(text, texts)
    if text.has(3):
        behind = text.run(texts, 3)[0].last_hidden_state
    else:
        behind = clips.new_zeros(len(texts), LONGEST[text.pipeline], text.width)
    wide = torch.nn.functional.pad(clips, (0, behind.shape[-1] - clips.shape[-1]))
    return Embedded(torch.cat([wide, behind], 1), pooled=torch.cat(pooled, -1))


def _flux(text: TextEncoders, texts: list[str]) -> Embedded:
    """FLUX: T5, and CLIP for the whole text."""
    pooled = text.run(texts, 1)[0].pooler_output
    return Embedded(text.run(texts, 2)[0].last_hidden_state, pooled=pooled)


def _pixart(text: TextEncoders, texts: list[str]) -> Embedded:
    """PixArt: T5 with its mask, of prompts in small letters."""
    answer, mask = text.run(texts, 1, masked=True)
    return Embedded(answer.last_hidden_state, mask=mask)


def _sentence(text: TextEncoders, texts: list[str]) -> Embedded:
    """A sentence encoder: its last layer, and the mean of the tokens that count, of length 1.

    Source: Reimers and Gurevych, Sentence-BERT (arXiv 1908.10084), mean pooling.
    """
    answer, mask = text.run(texts, 1, masked=True)
    sequence = answer.last_hidden_state
    pooled = torch.nn.functional.normalize(Embedded(sequence, mask).mean(), dim=1)
    return Embedded(sequence, mask=mask, pooled=pooled)


RECIPES: Mapping[str, Callable[[TextEncoders, list[str]], Embedded]] = {
    "StableDiffusionPipeline": _clip,
    "StableDiffusionXLPipeline": _xl,
    "StableDiffusion3Pipeline": _sd3,
    "FluxPipeline": _flux,
    "PixArtAlphaPipeline": _pixart,
    SENTENCE: _sentence,
}
"""Class of a pipeline -> how it makes what its network takes of prompts."""
SIZES: Mapping[str, Callable[[float], tuple[float, ...]]] = {
    "StableDiffusionXLPipeline": lambda px: (px, px, 0.0, 0.0, px, px),
    "PixArtAlphaPipeline": lambda px: (px, px, 1.0),
}
"""What networks are told of the size of an image that fills its frame: original height and width,
top and left of the crop, wanted height and width; height, width and their ratio. px."""
