"""Slimmer copies of networks: their sizes, and which of the teacher's weights they have."""

import pytest
import torch

from slimctl.models.metrics.cost import build_on_meta, count_parameters
from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.diffusers_model.spec import DiffusersModelSpec
from slimctl.models.networks.mlp.spec import MLPSpec
from slimctl.models.networks.slicing import Pieces, sliced_weights
from slimctl.models.networks.slim import SlimSpec, kept_layers
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=3, size=16, classes=4)
OURS = {
    "ncsn": SongUNetSpec(
        channels=16, channel_multipliers=(1, 2, 2), blocks=3, encoder="residual", augment=9,
        embedding="fourier", feature_multiplier=2, label_entry="features", resampling="binomial",
    ),
    "ddpm": SongUNetSpec(channels=32, channel_multipliers=(1, 2, 2)),
    "adm": ADMSpec(channels=64, head_channels=16, channel_multipliers=(1, 2, 3), augment=3),
}  # fmt: skip
SD15 = {
    "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2, "cross_attention_dim": 768,
    "attention_head_dim": 8, "norm_num_groups": 32, "in_channels": 4, "out_channels": 4,
}  # fmt: skip
DIT = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": 8,
    "num_layers": 28, "patch_size": 2, "num_embeds_ada_norm": 1000,
}  # fmt: skip
SDXL = {
    "block_out_channels": [320, 640, 1280], "layers_per_block": 2, "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True, "addition_embed_type": "text_time", "in_channels": 4,
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
SD3 = {
    "num_attention_heads": 24, "attention_head_dim": 64, "num_layers": 24, "in_channels": 16,
    "out_channels": 16, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "patch_size": 2, "pos_embed_max_size": 192,
}  # fmt: skip
PIXART = DIT | {
    "cross_attention_dim": 1152, "caption_channels": 4096, "norm_type": "ada_norm_single",
}  # fmt: skip
FLUX = {
    "patch_size": 1, "in_channels": 64, "num_layers": 19, "num_single_layers": 38,
    "attention_head_dim": 128, "num_attention_heads": 24, "joint_attention_dim": 4096,
    "pooled_projection_dim": 768, "guidance_embeds": True,
}  # fmt: skip
slow = pytest.mark.slow


def network(spec, image=IMAGE, seed=0):
    torch.manual_seed(seed)
    made = spec.build(image).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(std=0.1)
    return made


def cut(spec, teacher, width, depth, image=IMAGE):
    slim = spec.slimmed(float(width), float(depth))
    student = slim.build(image).eval()
    pieces = Pieces(tuple(zip(spec.units, slim.units, strict=True)))
    student.load_state_dict(sliced_weights(student, teacher, teacher.state_dict(), pieces))
    return student


@pytest.mark.parametrize("name", OURS)
def test_the_whole_is_the_teacher_bit_for_bit(name):
    spec = OURS[name]
    teacher = network(spec)
    assert spec.slimmed(1.0, 1.0) == spec
    whole = cut(spec, teacher, 1, 1).state_dict()
    assert all(torch.equal(whole[key], value) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(("width", "depth"), [(0.5, 1), (1, 0.5), (0.25, 0.34)])
def test_a_part_has_channels_and_layers_of_the_teacher(name, width, depth):
    spec = OURS[name]
    teacher = network(spec)
    student = cut(spec, teacher, width, depth)
    xt, t, label = torch.randn(2, 3, 16, 16), torch.rand(2), torch.tensor([0, 3])
    assert student(xt, t, label).isfinite().all()
    own, wide = student.state_dict(), teacher.state_dict()
    channels, last = len(own["stem.weight"]), len(teacher.up[0].blocks) - 1
    assert torch.equal(own["stem.weight"], wide["stem.weight"][:channels])
    assert torch.equal(own["head.weight"], wide["head.weight"][:, : own["head.weight"].shape[1]])
    mine = own[f"up.0.blocks.{len(student.up[0].blocks) - 1}.norm_in.weight"]
    theirs = wide[f"up.0.blocks.{last}.norm_in.weight"]
    taken = Pieces(
        tuple(zip(spec.units, spec.slimmed(float(width), float(depth)).units, strict=True))
    )
    assert torch.equal(mine, theirs[taken.index(len(theirs), len(mine), "")])


def test_of_a_concatenation_both_parts_are_taken_and_of_heads_whole_ones():
    spec = OURS["ddpm"]
    index = Pieces(((32, 16),)).index(96, 48, "")
    assert index.tolist() == [*range(16), *range(32, 48), *range(64, 80)]
    adm = OURS["adm"]
    teacher = network(adm)
    student = cut(adm, teacher, 0.5, 1)
    attention, theirs = student.middle_in.attention, teacher.middle_in.attention
    assert (attention.heads, theirs.heads) == (6, 12)
    narrow, wide = 96, 192
    for number in range(3):  # query, key and value of the first six heads
        mine = attention.qkv.bias[number * narrow :][:narrow]
        assert torch.equal(mine, theirs.qkv.bias[number * wide :][:narrow])
    assert spec.slimmed(0.5, 1.0).channels == 16


def test_layers_that_stay_are_spread_from_the_first_to_the_last():
    assert kept_layers(3, 2) == (0, 2)
    assert kept_layers(2, 1) == (0,)
    assert kept_layers(4, 4) == (0, 1, 2, 3)
    assert kept_layers(28, 14)[0] == 0
    assert kept_layers(28, 14)[-1] == 27
    assert len(set(kept_layers(28, 14))) == 14


def test_what_cannot_be_slimmed_is_refused():
    with pytest.raises(ValueError, match="a mlp cannot be slimmed"):
        SlimSpec(width=0.5).of(MLPSpec())
    with pytest.raises(ValueError, match=r"start copy takes whole layers, and width is 0\.5"):
        SlimSpec(width=0.5, start="copy").of(OURS["ddpm"])
    with pytest.raises(ValueError, match="is of a teacher, and this names none"):
        SlimSpec().check(IMAGE)


LATENT_64 = ImageShape(channels=4, size=64)
WITH_CLASSES = ImageShape(channels=4, size=64, classes=1000)
LATENT_16 = ImageShape(channels=16, size=64)


@pytest.mark.parametrize(
    ("model", "config", "image", "width", "depth", "millions"),
    [
        ("UNet2DConditionModel", SD15, LATENT_64, 0.75, 1, 490.5),
        ("UNet2DConditionModel", SD15, LATENT_64, 0.5, 1, 219.8),
        ("UNet2DConditionModel", SD15, LATENT_64, 0.25, 1, 56.3),
        ("UNet2DConditionModel", SD15, LATENT_64, 1, 0.5, 579.4),
        ("UNet2DConditionModel", SD15, LATENT_64, 0.5, 0.5, 148.0),
        ("DiTTransformer2DModel", DIT, WITH_CLASSES, 1, 0.5, 376.3),
        ("DiTTransformer2DModel", DIT, WITH_CLASSES, 0.5, 1, 197.7),
        ("DiTTransformer2DModel", DIT, WITH_CLASSES, 0.5, 0.5, 99.2),
        pytest.param("UNet2DConditionModel", SDXL, LATENT_64, 1, 0.5, 1474.8, marks=slow),
        pytest.param("SD3Transformer2DModel", SD3, LATENT_16, 1, 0.5, 1008.6, marks=slow),
        pytest.param("PixArtTransformer2DModel", PIXART, LATENT_64, 1, 0.5, 313.3, marks=slow),
        pytest.param("FluxTransformer2DModel", FLUX, LATENT_16, 1, 0.42, 5048.2, marks=slow),
    ],
)
def test_students_of_published_teachers_have_the_sizes_of_the_literature(
    model, config, image, width, depth, millions
):
    """BK-SDM's U-Net with one layer a block has 579.4 million parameters (arXiv 2305.15798)."""
    pytest.importorskip("diffusers")
    guidance = 3.5 if model == "FluxTransformer2DModel" else None
    spec = DiffusersModelSpec(model=model, config=config, embedded_guidance=guidance)
    count = count_parameters(build_on_meta(spec.slimmed(float(width), float(depth)), image))
    assert round(count / 1e6, 1) == millions


def test_networks_of_diffusers_are_cut_by_levels_heads_and_layers():
    pytest.importorskip("diffusers")
    tiny = SD15 | {"block_out_channels": [32, 64, 64, 64], "cross_attention_dim": 8}
    tiny |= {"norm_num_groups": 4, "attention_head_dim": 2}
    unet = DiffusersModelSpec(model="UNet2DConditionModel", config=tiny)
    image = ImageShape(channels=4, size=8)
    teacher = network(unet, image)
    for width, depth in ((1, 1), (0.75, 1), (0.5, 0.5)):
        student = cut(unet, teacher, width, depth, image)
        own, wide = student.state_dict(), teacher.state_dict()
        if width == depth == 1:
            assert all(torch.equal(own[key], value) for key, value in wide.items())
        groups = own["model.conv_in.bias"].view(4, -1)  # of each group of a norm the same share
        assert torch.equal(groups, wide["model.conv_in.bias"].view(4, -1)[:, : groups.shape[1]])
    flux = {
        "patch_size": 1, "in_channels": 16, "num_layers": 2, "num_single_layers": 4,
        "attention_head_dim": 8, "num_attention_heads": 4, "joint_attention_dim": 8,
        "pooled_projection_dim": 8, "axes_dims_rope": (2, 2, 4),
    }  # fmt: skip
    spec = DiffusersModelSpec(model="FluxTransformer2DModel", config=flux)
    teacher = network(spec, image)
    student = cut(spec, teacher, 0.5, 0.5, image)
    mine = student.model.single_transformer_blocks[-1].proj_out.weight
    theirs = teacher.model.single_transformer_blocks[-1].proj_out.weight
    stacked = Pieces(((32, 16),)).index(160, 80, "")  # attention, then the wider hidden layer
    if len(student.model.single_transformer_blocks) > 1:
        assert torch.equal(mine, theirs[:16, stacked])
