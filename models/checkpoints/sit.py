"""Reads a checkpoint of SiT (willisma/SiT): its network in the names of the package diffusers.

`DiTTransformer2DModel` is the same network, with two differences that this module sets: SiT's
embedding of the time has other frequencies, and its norms another epsilon. The package keeps the
embeddings of time and class in every block, SiT once; its queries, keys and values lie in three
layers. SiT's time is ours, and so is its velocity.

Not in the tensors, and asked for where it is not SiT's own: the number of heads (`num_heads`).
DiT's own checkpoints have the same names: `prediction: noise` with its schedule tells them.

Source: Ma et al., arXiv 2401.08740, and its models.py.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from slimctl.models.checkpoints.saved_weights import (
    Saved,
    chosen_weights,
    find_weights,
    of_family,
)
from slimctl.models.checkpoints.teacher import Overrides, TeacherFile, build_to_fill
from slimctl.models.flows.parameterisation import DiscreteVPSchedule
from slimctl.models.networks.diffusers_model.spec import DiffusersModelSpec
from slimctl.models.networks.published_weights import misfit, rename, same_names
from slimctl.models.shapes import Tensor
from slimctl.models.spec import ImageShape

FAMILY = re.compile(r"(^|(?<=\.))x_embedder\.proj\.")
"""How the names begin that tell this family."""
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}
"""Width of SiT-S, B, L and XL -> heads."""
HEAD_WIDTHS = (64, 72, 32, 16, 8)
"""Usual widths of a head, tried where the width of the network is another."""
LARGEST_DIFFERENCE = 1e-4
"""Of the table of positions from the package's."""
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")
IN_BLOCK: Mapping[str, str] = {
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}
"""SiT's name of a layer in a block -> the package's."""
SHARED: Mapping[str, str] = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}
"""The same of the embeddings, which the package has in each block."""
ENDS: Mapping[str, str] = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.linear": "proj_out_2",
    "final_layer.adaLN_modulation.1": "proj_out_1",
}
"""The same of what stands before and behind the blocks."""


def is_sit(saved: Saved) -> bool:
    """Whether the names are SiT's."""
    return any(FAMILY.search(name) for name in saved.tensors)


def read_sit(saved: Saved, overrides: Overrides) -> TeacherFile:
    """The network of a checkpoint, with its averaged weights where there are some.

    Raises:
        ValueError: the tensors are not those of such a network; all that differ are listed.
    """
    weights = find_weights(saved, of_family(FAMILY))
    state = chosen_weights(weights, overrides, may_lack=True)
    heads, rest = _heads(state, overrides)
    overrides = replace(overrides, network=rest)
    spec, image = _architecture(state, heads or _likely_heads(_width(state)))
    spec = overrides.apply(spec, image)
    network = build_to_fill(spec, image)
    _require_positions(state, network.get_buffer("model.pos_embed.pos_embed"))
    renamed = dict(_renamed(state, spec.config["num_layers"]))
    how = overrides.stated(**_usual(overrides)).model_copy(update={"null_class": spec.null_class})
    return TeacherFile(
        spec,
        image,
        overrides.starting(how),
        rename(renamed, same_names(network), network),
        undecided=""
        if heads
        else f"takes it for one of {spec.config['num_attention_heads']} heads",
        decide="network: {num_heads: ...}",
    )


def _usual(overrides: Overrides) -> dict[str, Any]:
    """The schedule of DiT where the caller says that noise is predicted."""
    is_dit = overrides.prediction == "noise" and overrides.schedule is None
    return {"schedule": DiscreteVPSchedule()} if is_dit else {}


def _heads(state: Mapping[str, Tensor], overrides: Overrides) -> tuple[int | None, dict[str, Any]]:
    """The number of heads if it is known, and the other fields that the caller gives."""
    rest = dict(overrides.network)
    given = rest.pop("num_heads", None)
    width = _width(state)
    if given is None:
        return HEADS.get(width), rest
    if not isinstance(given, int) or given < 1 or width % given:
        raise ValueError(
            f"holds a network of width {width}, which cannot have num_heads {given!r}"
            "\n  fix: give a num_heads that divides the width"
        )
    return given, rest


def _heads_of(spec: DiffusersModelSpec) -> int:
    heads: int = spec.config["num_attention_heads"]
    return heads


def _likely_heads(width: int) -> int:
    return next((width // each for each in HEAD_WIDTHS if width % each == 0), 1)


def _width(state: Mapping[str, Tensor]) -> int:
    return _shape(state, "x_embedder.proj.weight", 4)[0]


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that tells the architecture.

    Raises:
        ValueError: it is missing, or has another number of dimensions.
    """
    if name not in state:
        raise misfit([f"missing {name}"])
    shape = tuple(state[name].shape)
    if len(shape) != dimensions:
        raise misfit([f"misshapen {name} {shape}, wanted {dimensions} dimensions"])
    return shape


def _architecture(state: Mapping[str, Tensor], heads: int) -> tuple[DiffusersModelSpec, ImageShape]:
    width, channels, patch, _ = _shape(state, "x_embedder.proj.weight", 4)
    places = _shape(state, "pos_embed", 3)[1]
    rows = _shape(state, "y_embedder.embedding_table.weight", 2)[0]
    outputs = _shape(state, "final_layer.linear.weight", 2)[0]
    found = (BLOCK.fullmatch(name) for name in state)
    layers = 1 + max((int(match[1]) for match in found if match), default=-1)
    config = {
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": channels,
        "out_channels": outputs // patch**2,
        "num_layers": layers,
        "patch_size": patch,
        "num_embeds_ada_norm": rows - 1,
        "norm_eps": 1e-6,
    }
    size = round(places**0.5) * patch
    image = ImageShape(channels=channels, size=size, classes=rows - 1)
    config["sample_size"] = size
    spec = DiffusersModelSpec(model="DiTTransformer2DModel", config=config, frequency_shift=0.0)
    return spec, image


def _require_positions(state: Mapping[str, Tensor], table: Tensor) -> None:
    """Raises ValueError if the table of positions is not the one that is computed here."""
    own = state["pos_embed"].float()
    if own.shape != table.shape or float((own - table).abs().max()) > LARGEST_DIFFERENCE:
        raise ValueError(
            "has a pos_embed that is not the sine and cosine of the places"
            "\n  fix: give a checkpoint of SiT whose pos_embed was not trained"
        )


def _renamed(state: Mapping[str, Tensor], layers: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors under the package's names; unknown ones under their own."""
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        block = BLOCK.fullmatch(name)
        if name == "pos_embed":
            continue  # computed, and compared
        if layer in ENDS:
            yield f"model.{ENDS[layer]}.{kind}", value
        elif layer in SHARED:
            for number in range(layers):
                yield (
                    f"model.transformer_blocks.{number}.norm1.emb.{SHARED[layer]}.{kind}",
                    value.clone(),
                )
        elif block and block[2] == "attn.qkv" and len(value) % 3 == 0:
            for part, each in zip(("to_q", "to_k", "to_v"), value.chunk(3), strict=True):
                yield f"model.transformer_blocks.{block[1]}.attn1.{part}.{kind}", each.clone()
        elif block and block[2] in IN_BLOCK:
            yield f"model.transformer_blocks.{block[1]}.{IN_BLOCK[block[2]]}.{kind}", value
        else:
            yield name, value
