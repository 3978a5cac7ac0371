"""Reading the architecture of SlimFlow's NCSN++ checkpoints off their tensors."""

import pytest
import torch

from slimctl.models.networks.song_unet.slimflow_weights import image_size, read_slimflow, sources
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

TINY = SongUNetSpec(channels=8, blocks=1)
CIFAR = ImageShape(channels=3, size=32)


def state_of(published, spec, image):
    with torch.device("meta"):
        network = spec.build(image)
    return published(network, sources(network))


@pytest.mark.parametrize(
    ("changes", "image"),
    [
        ({}, CIFAR),
        ({}, ImageShape(channels=1, size=64)),
        ({"blocks": 3, "channel_multipliers": (1, 1, 2)}, CIFAR),
        ({"channel_multipliers": (2, 1)}, CIFAR),
        ({"channel_multipliers": (2,), "attention_resolutions": ()}, CIFAR),
        ({"channel_multipliers": (1, 2, 2, 2), "attention_resolutions": (16, 8)}, CIFAR),
        ({"attention_resolutions": (32, 16)}, CIFAR),
        ({"embedding_multiplier": 2, "attention_resolutions": ()}, CIFAR),
    ],
)
def test_any_network_is_read_back(changes, image, published):
    spec = TINY.model_copy(update=changes)
    assert read_slimflow(state_of(published, spec, image))[:2] == (spec, image)


def test_the_size_can_be_given_and_moves_the_attention(published):
    state = state_of(published, TINY, CIFAR)
    spec, image, _ = read_slimflow(state, size=64)
    assert (image.size, spec.attention_resolutions) == (64, (32,))
    spec, image, _ = read_slimflow(state, attention_resolutions=(8,))
    assert (image.size, spec.attention_resolutions) == (16, (8,))


@pytest.mark.parametrize(
    ("attends", "resolutions", "size"),
    [
        ((False, True, False), None, 32),
        ((False, False, True), None, 64),
        ((False, True, True), None, 32),
        ((True, True, True), None, 32),
        ((True,), None, 16),
        ((False, False), None, 32),
        ((False, True, True), (32, 16), 64),
        ((True, True), (8, 4), 8),
        ((True, False), (9,), 9),
    ],
)
def test_image_size_puts_attention_where_it_was_published(attends, resolutions, size):
    assert image_size(attends, resolutions).size == size


def test_damage_leaves_the_architecture_readable(published):
    state = state_of(published, TINY, CIFAR)
    del state["all_modules.3.Conv_0.weight"]
    state["all_modules.0.weight"] = torch.zeros(5, 5, device="meta")
    state["all_modules.999.Conv_0.weight"] = torch.zeros(4, 4, 3, 3, device="meta")
    state["all_modules.999.Conv_0.bias"] = torch.zeros(4, device="meta")
    assert read_slimflow(state)[:2] == (TINY, CIFAR)


def test_other_networks_are_refused(published):
    state = state_of(published, TINY, CIFAR)
    fourier = state | {"all_modules.0.W": torch.zeros(4)}
    with pytest.raises(ValueError, match="embeds time by random frequencies"):
        read_slimflow(fourier)
    with pytest.raises(ValueError, match="residual blocks make no NCSN"):
        read_slimflow(
            {
                k: v
                for k, v in state.items()
                if "Conv_0" not in k and "Dense" not in k and "Conv_1" not in k
            }
        )
