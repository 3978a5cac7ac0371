"""What a folder with encoders of texts consists of, without torch and without the encoders."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SENTENCE = "sentence"
"""Stands for the class of a pipeline where a folder holds a sentence encoder alone."""
ENCODERS = frozenset({"CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"})
"""Classes of encoders in pipelines that are known here."""
SENTENCE_ENCODERS = frozenset({"BertModel", "MPNetModel", "RobertaModel", "XLMRobertaModel"})
"""Classes of sentence encoders that are known here."""
INDEX = "model_index.json"
KEPT = frozenset({".json", ".txt", ".model", ".safetensors"})
"""Endings of files that an encoder reads."""
PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "PixArtAlphaPipeline",
)
"""Classes of pipelines whose way with texts is known here."""


def encoder_kind(folder: Path) -> str:
    """The class of the pipeline in a folder, or `SENTENCE`.

    Raises:
        ValueError: it holds neither a pipeline nor a sentence encoder that is known here.
    """
    if not (folder / INDEX).is_file():
        found = sentence_class(folder)
        if found in SENTENCE_ENCODERS:
            return SENTENCE
        what = f"is a {found}" if found else f"has no {INDEX}, and no config.json with a class"
        known = ", ".join(sorted(SENTENCE_ENCODERS))
        raise ValueError(
            f"{what}: no encoder of texts\n  fix: give the folder of a pipeline, or of a {known}"
        )
    name = str(read_config(folder / INDEX).get("_class_name"))
    if name not in PIPELINES:
        known = ", ".join(PIPELINES)
        raise ValueError(
            f"is a {name}, whose way with texts is not known here\n  fix: give one of {known}"
        )
    return name


def encoder_files(folder: Path) -> tuple[Path, ...]:
    """The files in a folder that encode texts: settings, vocabularies and safetensors.

    Of weights in several variants the unnamed ones.
    """
    places = [folder]
    if (folder / INDEX).is_file():
        places = [*folder.glob("text_encoder*"), *folder.glob("tokenizer*")]
    found = [
        file
        for place in places
        for file in sorted(place.iterdir() if place.is_dir() else ())
        if file.suffix in KEPT and (not _is_variant(file) or len(places) == 1)
    ]
    index = [folder / INDEX] if (folder / INDEX).is_file() else []
    return (*index, *found)


def _is_variant(file: Path) -> bool:
    """Whether it is one of several forms of the same weights, such as model.fp16.safetensors."""
    return file.suffix == ".safetensors" and file.name.count(".") > 1


def text_width(folder: Path) -> int | None:
    """Numbers of each token that the encoders of a folder make; None = its configs do not say."""
    pipeline = encoder_kind(folder)
    if pipeline == SENTENCE:
        return read_config(folder / "config.json").get("hidden_size")
    parts = {"StableDiffusionXLPipeline": ("", "_2"), "StableDiffusion3Pipeline": ("_3",)}
    parts["FluxPipeline"] = ("_2",)
    widths: list[int] = []
    for ending in parts.get(pipeline, ("",)):
        config = folder / f"text_encoder{ending}" / "config.json"
        known = read_config(config) if config.is_file() else {}
        widths.append(known.get("hidden_size") or known.get("d_model") or 0)
    return sum(widths) if all(widths) else None


def read_config(file: Path) -> Mapping[str, Any]:
    """The settings in a file.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        config: Mapping[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{file.name} cannot be read\n  fix: copy it again") from error
    return config


def sentence_class(folder: Path) -> str | None:
    """The class that the config of a sentence encoder names."""
    try:
        named: list[str] = json.loads((folder / "config.json").read_text())["architectures"]
    except (OSError, ValueError, KeyError):
        return None
    return named[0] if named else None
