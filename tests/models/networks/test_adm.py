"""ADM: heads, any size and width, conditioning, initial weights, and the ways it is run."""

import math

import pytest
import torch
from builders import network_inputs as inputs
from pydantic import ValidationError

from slimctl.models.metrics.cost import count_macs
from slimctl.models.networks.adm.network import Attention, head_count, sinusoids
from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.layers import Enlarge, Halve
from slimctl.models.spec import ImageShape

DIGITS = ImageShape(channels=1, size=8, classes=3)
SMALL = ADMSpec(
    channels=8,
    channel_multipliers=(1, 2),
    blocks=1,
    attention_resolutions=(4,),
    head_channels=8,
)


def parameters_by_formula(spec: ADMSpec, image: ImageShape) -> int:
    """The published layout, written out."""
    nf, width = spec.channels, spec.embedding_multiplier * spec.channels

    def block(i, o, attends=False):
        skip = i * o + o if i != o else 0
        attention = 2 * o + 4 * o * (o + 1) if attends and o >= spec.head_channels else 0
        convolutions = 9 * i * o + o + 9 * o * o + o
        return 2 * i + 2 * o + convolutions + (width + 1) * 2 * o + skip + attention

    total = (nf + 1) * width + (width + 1) * width + image.classes * width + spec.augment * nf
    channels = nf * spec.channel_multipliers[0]
    total += (9 * image.channels + 1) * channels
    skips, height, levels = [channels], image.size, []
    for index, multiplier in enumerate(spec.channel_multipliers):
        if index:
            total += block(channels, channels)
            skips.append(channels)
            height = (height + 1) // 2
        attends = height in spec.attention_resolutions
        for _ in range(spec.blocks):
            total += block(channels, nf * multiplier, attends)
            channels = nf * multiplier
            skips.append(channels)
        levels.append((channels, attends))
    total += block(channels, channels, attends=True) + block(channels, channels)
    for index, (outputs, attends) in reversed(list(enumerate(levels))):
        total += block(channels, channels) if index < len(levels) - 1 else 0
        for _ in range(spec.blocks + 1):
            total += block(channels + skips.pop(), outputs, attends)
            channels = outputs
    return total + 2 * channels + (9 * channels + 1) * image.channels


@pytest.mark.parametrize(
    ("changes", "image"),
    [
        ({}, DIGITS),
        ({"blocks": 3, "augment": 9, "embedding_multiplier": 2}, DIGITS),
        ({"channel_multipliers": (2, 1, 3)}, ImageShape(channels=3, size=30)),
        ({"attention_resolutions": (8, 4), "head_channels": 16}, DIGITS),
    ],
)
def test_parameters_are_those_of_the_formula(changes, image):
    spec = SMALL.model_copy(update=changes)
    with torch.device("meta"):
        network = spec.build(image)
    counted = sum(parameter.numel() for parameter in network.parameters())
    assert counted == parameters_by_formula(spec, image)


@pytest.mark.parametrize(
    ("channels", "heads"), [(32, 0), (63, 0), (64, 1), (96, 1), (192, 3), (224, 2), (512, 8)]
)
def test_heads_divide_the_channels_and_are_no_narrower_than_asked(channels, heads):
    assert head_count(channels, 64) == heads


def test_attention_is_a_softmax_per_head(randomised):
    layer = randomised(Attention(6, heads=2))
    x = torch.randn(1, 6, 2, 2)
    pixels = layer.norm(x).flatten(2)[0]
    query, key, value = (layer.qkv.weight @ pixels + layer.qkv.bias[:, None]).chunk(3)
    heads = []
    for rows in (slice(0, 3), slice(3, 6)):
        weights = (query[rows].T @ key[rows] / math.sqrt(3)).softmax(dim=1)
        heads.append(value[rows] @ weights.T)
    change = layer.out.weight @ torch.cat(heads) + layer.out.bias[:, None]
    assert torch.allclose(layer(x), x + change.view(x.shape), atol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5, 7, 30])
@pytest.mark.parametrize("channels", [4, 5, 56])
def test_any_image_size_and_width(size, channels, randomised):
    levels = min(3, (size - 1).bit_length() + 1)
    spec = SMALL.model_copy(
        update={"channel_multipliers": (1, 2, 2)[:levels], "channels": channels}
    )
    image = ImageShape(channels=2, size=size)
    xt, t, _ = inputs(image)
    velocity = randomised(spec.build(image))(xt, t)
    assert velocity.shape == xt.shape
    assert velocity.isfinite().all()


def test_impossible_networks_are_refused():
    with pytest.raises(ValidationError):
        ADMSpec(channels=2)
    with pytest.raises(ValueError, match="at most 4 channel_multipliers"):
        SMALL.model_copy(update={"channel_multipliers": (1,) * 5}).build(DIGITS)


def test_fresh_network_answers_zero_and_its_blocks_change_nothing():
    network = SMALL.build(DIGITS)
    assert not network(*inputs(DIGITS)).any()
    block, x = network.middle_in, torch.randn(2, 16, 4, 4)
    assert torch.equal(block(x, torch.randn(2, 32)), x)


def test_initial_weights_are_the_published_ones():
    network = ADMSpec(channels=64).build(ImageShape(channels=3, size=32, classes=50))
    block = network.down[1].blocks[0]
    for weight, fan_in in [(block.conv_in.weight, 9 * 64), (block.affine.weight, 256)]:
        assert weight.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.01)
    assert network.embedding.label.weight.std().item() == pytest.approx(1, rel=0.03)
    assert not block.conv_out.weight.any()


def test_sinusoids_are_the_published_ones():
    vector = sinusoids(torch.tensor([999.0]), 2)
    angles = torch.tensor([999.0, 9.99], dtype=torch.float64)
    assert torch.allclose(vector[0].double(), torch.cat([angles.cos(), angles.sin()]), atol=1e-4)


@pytest.mark.parametrize("classes", [0, 2])
def test_gradients_reach_every_parameter(classes, randomised):
    image = DIGITS.model_copy(update={"classes": classes})
    network = randomised(SMALL.build(image))
    (network(*inputs(image)) - 1).square().mean().backward()
    assert [name for name, value in network.named_parameters() if not value.grad.any()] == []


def test_time_and_class_change_the_output_and_augmentation_does_not(randomised):
    network = randomised(SMALL.build(DIGITS))
    xt, t, label = inputs(DIGITS)
    velocity = network(xt, t, label)
    assert not torch.allclose(velocity, network(xt, t / 2, label), atol=1e-3)
    other = network(xt, t, torch.tensor([0, 2]))
    assert torch.allclose(velocity[0], other[0], atol=1e-5)
    assert not torch.allclose(velocity[1], other[1], atol=1e-3)
    augmented = SMALL.model_copy(update={"augment": 9}).build(DIGITS).eval()
    augmented.load_state_dict(network.state_dict(), strict=False)
    assert torch.equal(augmented(xt, t, label), velocity)


def test_label_must_be_there_exactly_where_there_are_classes():
    xt, t, label = inputs(DIGITS)
    with pytest.raises(ValueError, match=r"3 classes but got no label\n  fix: .*0\.\.2"):
        SMALL.build(DIGITS)(xt, t)
    with pytest.raises(ValueError, match=r"no classes but got a label\n  fix: .*None"):
        SMALL.build(DIGITS.model_copy(update={"classes": 0}))(xt, t, label)


def test_images_of_a_batch_do_not_mix(randomised):
    network = randomised(SMALL.build(DIGITS))
    xt, t, label = inputs(DIGITS, batch=3)
    alone = network(xt[1:2], t[1:2], label[1:2])
    assert torch.allclose(network(xt, t, label)[1:2], alone, atol=1e-5)


def test_dropout_acts_in_training_only(randomised):
    network = randomised(SMALL.model_copy(update={"dropout": 0.5}).build(DIGITS))
    arguments = inputs(DIGITS)
    assert torch.equal(network(*arguments), network(*arguments))
    network.train()
    assert not torch.equal(network(*arguments), network(*arguments))


def test_precisions_and_memory_formats_agree(randomised):
    network = randomised(SMALL.build(DIGITS))
    xt, t, label = inputs(DIGITS)
    velocity = network(xt, t, label)
    with torch.autocast("cpu", torch.bfloat16):
        assert (network(xt, t, label) - velocity).std() < 0.05 * velocity.std()
    last = network.to(memory_format=torch.channels_last)
    assert torch.allclose(last(xt, t, label), velocity, atol=1e-5)
    exact = network.double()(xt.double(), t.double(), label)
    assert torch.allclose(exact.float(), velocity, atol=1e-4)


def test_resampling_is_counted_as_the_convolution_it_is_published_as(monkeypatch):
    counted = count_macs(SMALL, DIGITS)
    monkeypatch.setattr(Halve, "taps", 0)
    monkeypatch.setattr(Enlarge, "taps", 0)
    # Halving 8 channels to 4 x 4 px and doubling 16 to 8 x 8 px, each on both branches.
    assert counted - count_macs(SMALL, DIGITS) == 2 * (8 * 16 * 4) + 2 * (16 * 64 * 1)
