"""NCSN++: counts by formula, any size and width, conditioning, and the ways it is run."""

import pytest
import torch
from builders import network_inputs as inputs
from pydantic import ValidationError

from slimctl.models.networks.song_unet.network import sinusoids
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

DIGITS = ImageShape(channels=1, size=8)
SMALL = SongUNetSpec(channels=8, channel_multipliers=(1, 2), blocks=1, attention_resolutions=(4,))


def randomised(spec: SongUNetSpec, image: ImageShape):
    """The network with weights that let every layer show in the output."""
    torch.manual_seed(0)
    network = spec.build(image).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) / max(parameter[0].numel(), 4) ** 0.5)
    return network


def parameters_by_formula(spec: SongUNetSpec, image: ImageShape) -> int:
    """METHOD's count, written out from the published layout."""
    nf, width = spec.channels, spec.embedding_multiplier * spec.channels

    def block(i, o, resample=False):
        skip = i * o + o if resample or i != o else 0
        return 2 * i + 9 * i * o + o + width * o + o + 2 * o + 9 * o * o + o + skip

    def attention(c):
        return 2 * c + 4 * (c * c + c)

    total = nf * width + width + width * width + width + image.classes * width
    total += (9 * image.channels + 1) * nf + 2 * nf + (9 * nf + 1) * image.channels
    channels, skips, height = nf, [nf], image.size
    levels = []
    for index, multiplier in enumerate(spec.channel_multipliers):
        if index:
            total += block(channels, channels, resample=True)
            skips.append(channels)
            height = (height + 1) // 2
        for _ in range(spec.blocks):
            total += block(channels, nf * multiplier)
            channels = nf * multiplier
            skips.append(channels)
            total += attention(channels) if height in spec.attention_resolutions else 0
        levels.append((channels, height))
    total += 2 * block(channels, channels) + attention(channels) * spec.middle_attention
    for index, (outputs, height) in reversed(list(enumerate(levels))):
        for _ in range(spec.blocks + 1):
            total += block(channels + skips.pop(), outputs)
            channels = outputs
        total += attention(outputs) if height in spec.attention_resolutions else 0
        total += block(outputs, outputs, resample=True) if index else 0
    return total


@pytest.mark.parametrize(
    ("spec", "image"),
    [
        (SMALL, DIGITS),
        (SMALL.model_copy(update={"middle_attention": False, "blocks": 3}), DIGITS),
        (SMALL.model_copy(update={"embedding_multiplier": 1}), ImageShape(channels=2, size=7)),
        (
            SongUNetSpec(channels=12, channel_multipliers=(1, 3, 2), attention_resolutions=(8, 15)),
            ImageShape(channels=3, size=30, classes=5),
        ),
    ],
)
def test_parameters_are_those_of_the_formula(spec, image):
    with torch.device("meta"):
        network = spec.build(image)
    expected = parameters_by_formula(spec, image)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize("size", [1, 2, 5, 7, 8, 30])
@pytest.mark.parametrize("channels", [1, 4])
def test_any_image_size_and_channel_count(size, channels):
    levels = min(4, (size - 1).bit_length() + 1)
    image = ImageShape(channels=channels, size=size)
    spec = SMALL.model_copy(update={"channel_multipliers": (1,) * levels})
    xt, t, _ = inputs(image)
    velocity = randomised(spec, image)(xt, t)
    assert velocity.shape == xt.shape
    assert velocity.isfinite().all()


@pytest.mark.parametrize("channels", [4, 5, 48, 56, 72, 80])
def test_any_width(channels):
    xt, t, _ = inputs(DIGITS)
    assert SMALL.model_copy(update={"channels": channels}).build(DIGITS)(xt, t).isfinite().all()


def test_too_many_levels_say_how_many_fit():
    spec = SongUNetSpec(channels=8, channel_multipliers=(1, 1, 1, 1, 1))
    for refuse in (spec.check, spec.build):
        with pytest.raises(ValueError, match=r"8 x 8 px.*\n.*at most 4 channel_multipliers"):
            refuse(DIGITS)


@pytest.mark.parametrize(
    "wrong",
    [{"channels": 2}, {"channel_multipliers": ()}, {"dropout": 1.0}, {"blocks": 0}, {"width": 8}],
)
def test_impossible_fields_are_refused(wrong):
    with pytest.raises(ValidationError):
        SongUNetSpec(**({"channels": 8} | wrong))


def test_fresh_network_answers_almost_zero():
    xt, t, _ = inputs(DIGITS)
    velocity = SMALL.build(DIGITS)(xt, t)
    assert 0 < velocity.abs().max() < 1e-4


def test_initial_weights_follow_the_published_scales():
    network = SongUNetSpec(channels=32).build(ImageShape(channels=3, size=32))

    def bound(scale, fan_in, fan_out):
        return (6 * scale / (fan_in + fan_out)) ** 0.5

    block, attention = network.down[1].blocks[0], network.down[1].attention[0]
    for weight, expected in [
        (block.conv_in.weight, bound(1, 9 * 32, 9 * 64)),
        (block.conv_out.weight, bound(1e-10, 9 * 64, 9 * 64)),
        (block.shift.weight, bound(1, 128, 64)),
        (attention.qkv.weight, bound(0.1, 64, 64)),
        (attention.out.weight, bound(1e-10, 64, 64)),
        (network.head.weight, bound(1e-10, 9 * 32, 9 * 3)),
    ]:
        assert weight.abs().max().item() == pytest.approx(expected, rel=0.02)
    biases = [value for name, value in network.named_parameters() if name.endswith("bias")]
    assert all(not bias.any() for bias in biases)


@pytest.mark.parametrize("classes", [0, 2])
def test_gradients_reach_every_parameter(classes):
    image = DIGITS.model_copy(update={"classes": classes})
    network = SMALL.build(image)
    (network(*inputs(image)) - 1).square().mean().backward()
    without = [name for name, value in network.named_parameters() if not value.grad.any()]
    assert without == []


def test_time_and_class_change_the_output():
    image = DIGITS.model_copy(update={"classes": 3})
    network = randomised(SMALL, image)
    xt, t, label = inputs(image)
    velocity = network(xt, t, label)
    assert not torch.allclose(velocity, network(xt, t / 2, label), atol=1e-3)
    other = network(xt, t, torch.tensor([0, 2]))
    assert torch.allclose(velocity[0], other[0], atol=1e-5)
    assert not torch.allclose(velocity[1], other[1], atol=1e-3)


def test_label_must_be_there_exactly_where_there_are_classes():
    xt, t, _ = inputs(DIGITS)
    with pytest.raises(ValueError, match=r"no classes but got a label\n  fix: .*None"):
        SMALL.build(DIGITS)(xt, t, torch.tensor([0, 1]))
    conditional = SMALL.build(DIGITS.model_copy(update={"classes": 3}))
    with pytest.raises(ValueError, match=r"3 classes but got no label\n  fix: .*0\.\.2"):
        conditional(xt, t)


def test_images_of_a_batch_do_not_mix():
    network = randomised(SMALL, DIGITS)
    xt, t, _ = inputs(DIGITS, batch=3)
    assert torch.allclose(network(xt, t)[1:2], network(xt[1:2], t[1:2]), atol=1e-5)


def test_dropout_acts_in_training_only():
    network = randomised(SMALL.model_copy(update={"dropout": 0.5}), DIGITS)
    xt, t, _ = inputs(DIGITS)
    assert torch.equal(network(xt, t), network(xt, t))
    network.train()
    assert not torch.equal(network(xt, t), network(xt, t))


def test_sinusoids_are_the_published_ones():
    vector = sinusoids(torch.tensor([999.0]), 3)
    angles = torch.tensor([999.0, 9.99, 0.0999], dtype=torch.float64)
    assert torch.allclose(vector[0].double(), torch.cat([angles.sin(), angles.cos()]), atol=1e-4)


def test_bfloat16_and_float64_agree_with_float32():
    image = DIGITS.model_copy(update={"classes": 3})
    network = randomised(SMALL, image)
    xt, t, label = inputs(image)
    velocity = network(xt, t, label)
    with torch.autocast("cpu", torch.bfloat16):
        assert (network(xt, t, label) - velocity).std() < 0.03 * velocity.std()
    exact = network.double()(xt.double(), t.double(), label)
    assert torch.allclose(exact.float(), velocity, atol=1e-4)
    half = network.bfloat16()(xt.bfloat16(), t, label)
    assert (half - velocity).std() < 0.05 * velocity.std()


def test_channels_last_gives_the_same_and_stays_channels_last():
    network = randomised(SMALL, DIGITS.model_copy(update={"channels": 2}))
    xt, t, _ = inputs(DIGITS.model_copy(update={"channels": 2}))
    velocity = network(xt, t)
    last = network.to(memory_format=torch.channels_last)(
        xt.contiguous(memory_format=torch.channels_last), t
    )
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(last, velocity, atol=1e-5)


def test_weights_made_on_the_meta_device_can_be_filled():
    network = randomised(SMALL, DIGITS)
    with torch.device("meta"):
        empty = SMALL.build(DIGITS)
    filled = empty.to_empty(device="cpu").eval()
    filled.load_state_dict(network.state_dict())
    xt, t, _ = inputs(DIGITS)
    assert torch.equal(filled(xt, t), network(xt, t))
