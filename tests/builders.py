"""What many tests are made of: small specs, handles, and results in a store."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from slimctl.jobs.base.artifacts import (
    Dataset,
    EmbeddedPrompts,
    FeatureNet,
    Flow,
    Handle,
    PairSet,
    PromptSet,
    QualityReport,
)
from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.data.prompts import Prompt, Prompts, write_prompts
from slimctl.jobs.kinds.encode_prompts import EncodePrompts
from slimctl.jobs.kinds.train_step_policy import TrainStepPolicy
from slimctl.jobs.pairs import texts
from slimctl.jobs.pairs.texts import TextActor, TextRecipe, TextShard
from slimctl.jobs.storage.store import Store
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=1, size=8)
RUN = "digits-20260101-120000-aaaa"
NETWORK: dict[str, Any] = {
    "kind": "song_unet", "channels": 4, "channel_multipliers": [1], "blocks": 1,
    "attention_resolutions": [], "middle_attention": False,
}  # fmt: skip
"""The smallest U-Net, for images of any size."""
FLOW_PROBLEM = {"kind": "flow", "actions": [0.1, 0.2, 0.4], "pool": 8, "reference_tolerance": 1e-4}


def strangers_folder(folder: Path, *libraries: str) -> Path:
    """A research checkout: packages with the names of our folders, and of libraries, that raise."""
    for name in ("models", "jobs", "orchestrator", *libraries):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise ImportError('a stranger')")
    return folder


DIT: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 4, "out_channels": 8,
    "num_layers": 2, "sample_size": 8, "patch_size": 2, "num_embeds_ada_norm": 5,
}  # fmt: skip
"""A transformer of 5 classes and the one that stands for none, number 5."""
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2, "block_out_channels": (4, 8),
    "up_block_types": ("UpDecoderBlock2D",) * 2, "norm_num_groups": 2, "latent_channels": 4,
    "scaling_factor": 0.2, "sample_size": 16,
}  # fmt: skip


def drawn(module: Any, seed: int = 0) -> Any:
    """A module with every weight drawn, so that an exchanged one shows."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=0.3)
    return module.eval()


def save_dit(diffusers: Any, folder: Path) -> Any:
    """A pipeline of latents with random weights, which is written to a folder and returned."""
    pipeline = diffusers.DiTPipeline(
        transformer=drawn(diffusers.DiTTransformer2DModel(**DIT)),
        vae=drawn(diffusers.AutoencoderKL(**VAE)),
        scheduler=diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True),
    )
    pipeline.save_pretrained(folder)
    return pipeline


WORDS = (
    "a", "an", "the", "of", "zero", "one", "two", "three", "four", "five", "six", "seven",
    "eight", "nine", "digit", "handwritten",
)  # fmt: skip


def save_sentence_encoder(folder: Path, width: int = 8) -> Path:
    """A sentence encoder with random weights, which knows a few words."""
    import tokenizers
    import transformers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: at for at, word in enumerate([*special, *WORDS])}
    words = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    words.normalizer = tokenizers.normalizers.Lowercase()
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=16, **names
    )
    fast.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=width, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    drawn(transformers.BertModel(config)).save_pretrained(folder)
    return folder


TEXT_NETWORK = {
    "kind": "diffusers_model",
    "model": "UNet2DConditionModel",
    "convention": "instaflow",
    "config": {
        "in_channels": 1, "out_channels": 1, "block_out_channels": [8, 16], "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": 8, "attention_head_dim": 2, "norm_num_groups": 4,
    },
}  # fmt: skip
"""A network of pixels that takes the texts of `save_sentence_encoder`."""


def embed_prompts(
    store: Store,
    folder: Path,
    prompts: Sequence[tuple[str, int | None]],
    name: str = "encode_prompts-a",
    **changes: Any,
) -> EmbeddedPrompts:
    """Prompts with labels in the store, embedded in this process by a sentence encoder."""
    file = folder / "prompts.jsonl"
    write_prompts(Prompts(tuple(Prompt(*each) for each in prompts), 0, 0, 0, 0), file)
    classes = max((label + 1 for _, label in prompts if label is not None), default=0)
    made = PromptSet(count=len(prompts), classes=classes)
    held = put(store, f"load_{name}", made, {"prompts.jsonl": file.read_bytes()})
    encoder = save_sentence_encoder(folder / "encoder")
    fields = {"prompts": "p", "encoder": str(encoder), "length": 8, "shard_size": 4}
    spec = EncodePrompts(**fields | changes)

    def embed(context: JobContext, recipe: TextRecipe, _: int) -> list[TextShard]:
        worker = TextActor(context.store, recipe, 1)
        worker.ready()
        return [worker.make(at) for at in range(recipe.shards)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "embed", embed)
        inside = JobContext("p", name, store, {"p": held}, store.stage(), Cluster(1))
        handle = spec.run(inside)
    null = (inside.folder / handle.null).read_bytes()
    return put(store, name, handle, {handle.null: null})


TINY = """
name: tiny
seed: 3
jobs:
  data: {kind: load_dataset, source: digits, max_images: 600}
  features: {kind: train_features, data: data, steps: 40, network: {channels: 8, features: 16}}
  teacher: {kind: analytic_flow, data: data, bandwidth: 0.05}
  pairs:
    {kind: generate_pairs, flow: teacher, count: 400, shard_size: 100,
     solver: {kind: euler, steps: 10}}
  student:
    kind: anneal_reflow
    pairs: pairs
    network: {kind: song_unet, channels: 8, channel_multipliers: [1, 2], blocks: 1}
    steps: 60
    batch_size: 64
    learning_rate: 2e-3
    workers: 1
    log_every: 10
  one_step:
    {kind: distill, pairs: pairs, start: student, guide: student, steps: 30, batch_size: 64,
     learning_rate: 1e-3, shared: true, log_every: 10}
  student_2:
    {kind: evaluate, model: student, data: data, features: features, samples: 200,
     solver: {kind: euler, steps: 2}}
  quality: {kind: evaluate, model: one_step, data: data, features: features, samples: 200}
"""
"""A pipeline small enough to run whole in a test."""


# Inputs


def network_inputs(
    image: ImageShape, batch: int = 2
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Random points, times and, if there are classes, labels."""
    xt = torch.randn(batch, image.channels, image.size, image.size)
    label = torch.arange(batch) % image.classes if image.classes else None
    return xt, torch.rand(batch), label


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


# Specs


def step_policy(**changes: object) -> TrainStepPolicy:
    """A step policy for three bodies that is trained for a moment."""
    problem = {"kind": "three_body", "actions": [0.05, 0.1, 0.3], "horizons": [3, 6], "hold": 2}
    learner = {
        "hidden": [8], "environments": 4, "decisions": 60, "updates": 1, "batch_size": 16,
        "replay": 100, "warmup": 8, "validate_every": 30,
    }  # fmt: skip
    fields = {"problem": problem, "learner": learner, "training_seeds": 2, "seed": 3}
    return TrainStepPolicy.model_validate(fields | changes)


# Handles


def dataset(image: ImageShape = IMAGE, count: int = 5, **changes: Any) -> Dataset:
    """Images that are nowhere."""
    return Dataset(**{"image": image, "count": count, "flip_valid": False, **changes})


def feature_net(image: ImageShape = IMAGE, **changes: Any) -> FeatureNet:
    """Features of two numbers."""
    return FeatureNet(**{"image": image, "network": {}, "dimensions": 2, "accuracy": 1.0} | changes)


def pair_set(image: ImageShape = IMAGE, count: int = 100, **changes: Any) -> PairSet:
    """Pairs in one shard that is nowhere."""
    fields = {"shard_size": count, "seed": 0, "generator_version": 1, "nfe": 1.0}
    return PairSet(image=image, count=count, **fields | changes)


def trained_flow(image: ImageShape = IMAGE, parameters: int = 1, **changes: Any) -> Flow:
    """A flow of a network that is nowhere."""
    return Flow(**{"source": "network", "image": image, "parameters": parameters} | changes)


def quality(**changes: Any) -> QualityReport:
    """What an evaluation measured."""
    fields = {
        "model": "m", "model_type": "Generator", "solver": "one step", "fid": 12.345,
        "fid_real": 1.0, "kid": 0.0123, "kid_low": 0.010, "kid_high": 0.016, "precision": 0.5,
        "recall": 0.25, "nfe": 1.0, "samples": 200, "features": "f", "reference": "d",
        "parameters": 1_234_567, "macs": 4_460_000, "latency_ms": 1.234, "latency_p90_ms": 2.0,
        "device": "cpu", "threads": 1, "straightness": None, "nearest_rms": 0.1,
        "nearest_rms_real": 0.2,
    }  # fmt: skip
    return QualityReport(**fields | changes)


# Results in a store


def put(
    store: Store,
    artifact: str,
    handle: Handle,
    files: Mapping[str, Mapping[str, torch.Tensor] | bytes] | None = None,
    **manifest: Any,
) -> Any:
    """Commits a result as a job would: its kind is the beginning of its id.

    Args:
        store: where it goes.
        artifact: its id.
        handle: what the job returned.
        files: name -> bytes, or tensors, which are written as safetensors.
        manifest: fields that are not those of a job of one second without a spec and inputs.

    Returns:
        The handle with its id.
    """
    folder = store.stage()
    for name, content in (files or {}).items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            save_file(dict(content), folder / name)
    made = {
        "kind": artifact.partition("-")[0], "version": 1, "spec": {}, "inputs": {}, "wall_s": 1.0,
        "device_s": 1.0,
    }  # fmt: skip
    return store.commit(artifact, handle, folder, made | manifest)
