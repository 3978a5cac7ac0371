"""The options of a song_unet that EDM's networks use."""

import math

import pytest
import torch
from builders import network_inputs as inputs

from slimctl.models.networks.song_unet.network import Embedding, PyramidStep, sinusoids
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=2, size=8, classes=3)
DDPMPP = SongUNetSpec(
    channels=8,
    channel_multipliers=(1, 2),
    blocks=1,
    attention_resolutions=(4,),
    time_scale=1.0,
    label_entry="features",
    augment=9,
)
NCSNPP = DDPMPP.model_copy(
    update={
        "embedding": "fourier",
        "feature_multiplier": 2,
        "resampling": "binomial",
        "encoder": "residual",
    }
)


@pytest.mark.parametrize("size", [2, 5, 7, 8])
@pytest.mark.parametrize("spec", [DDPMPP, NCSNPP], ids=["ddpmpp", "ncsnpp"])
def test_any_image_size(spec, size, randomised):
    image = IMAGE.model_copy(update={"size": size})
    output = randomised(spec.build(image))(*inputs(image))
    assert output.shape == (2, 2, size, size)
    assert output.isfinite().all()


@pytest.mark.parametrize("spec", [DDPMPP, NCSNPP], ids=["ddpmpp", "ncsnpp"])
def test_gradients_reach_all_but_the_augmentation(spec, randomised):
    network = randomised(spec.build(IMAGE))
    (network(*inputs(IMAGE)) - 1).square().mean().backward()
    without = [name for name, value in network.named_parameters() if not value.grad.any()]
    assert without == ["embedding.augment.weight"]


def test_class_is_one_hot_times_the_root_of_the_number_of_classes(randomised):
    embedding = randomised(Embedding(DDPMPP, classes=3))
    label, t = torch.tensor([2, 0]), torch.tensor([-1.5, 0.3])
    one_hot = torch.eye(3)[label] * math.sqrt(3)
    features = sinusoids(t, 4) + embedding.label_in(one_hot)
    hidden = torch.nn.functional.silu(embedding.time_in(features))
    expected = torch.nn.functional.silu(embedding.time_out(hidden))
    assert torch.allclose(embedding(t, label), expected, atol=1e-6)


def test_label_is_asked_for():
    with pytest.raises(ValueError, match="3 classes but got no label"):
        Embedding(DDPMPP, classes=3)(torch.rand(2), None)
    with pytest.raises(ValueError, match="no classes but got a label"):
        Embedding(DDPMPP, classes=0)(torch.rand(2), torch.tensor([0, 1]))


def test_random_frequencies_are_stored_and_make_the_features():
    torch.manual_seed(0)
    fourier = Embedding(NCSNPP.model_copy(update={"channels": 512}), classes=0).fourier
    assert "frequencies" in fourier.state_dict()
    assert fourier.frequencies.std().item() == pytest.approx(16, rel=0.1)
    angle = 2 * math.pi * 0.25 * fourier.frequencies
    features = fourier(torch.tensor([0.25]))[0]
    assert torch.allclose(features, torch.cat([angle.sin(), angle.cos()]), atol=1e-4)


def test_time_scale_multiplies_the_time(randomised):
    slow = randomised(DDPMPP.build(IMAGE))
    fast = DDPMPP.model_copy(update={"time_scale": 4.0}).build(IMAGE).eval()
    fast.load_state_dict(slow.state_dict())
    xt, t, label = inputs(IMAGE)
    assert torch.allclose(fast(xt, t, label), slow(xt, 4 * t, label), atol=1e-6)


@pytest.mark.parametrize("resampling", ["box", "binomial"])
def test_pyramid_step_keeps_a_constant_image_inside(resampling):
    step = PyramidStep(1, 1, resampling)
    torch.nn.init.zeros_(step.conv.weight)
    torch.nn.init.ones_(step.conv.weight[:, :, 1, 1])
    halved = step(torch.full((1, 1, 8, 8), 3.0))
    assert halved.shape == (1, 1, 4, 4)
    assert torch.allclose(halved[..., 1:3, 1:3], torch.tensor(3.0))


def test_residual_encoder_shows_the_image_to_every_level(randomised):
    network = randomised(NCSNPP.model_copy(update={"label_entry": "embedding"}).build(IMAGE))
    assert len(network.pyramid) == 1
    arguments = inputs(IMAGE)
    before = network(*arguments)
    with torch.no_grad():
        network.pyramid[0].conv.weight.zero_()
    assert not torch.allclose(network(*arguments), before, atol=1e-3)
