"""Loading networks in EDM's naming: the architecture off the names, and every misfit listed."""

import json

import pytest
import torch
from safetensors.torch import load_file

from slimctl.models.networks import edm_weights
from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.edm_weights import FILTER, parameters
from slimctl.models.networks.published_weights import named_averages
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

ADM = ADMSpec(channels=16, channel_multipliers=(1, 4), blocks=1, attention_resolutions=(8,))
DDPMPP = SongUNetSpec(
    channels=8,
    channel_multipliers=(2, 2),
    blocks=1,
    attention_resolutions=(8,),
    time_scale=1.0,
    label_entry="features",
)
CONDITIONAL = ImageShape(channels=3, size=16, classes=5)
GREY = ImageShape(channels=1, size=8)
BINOMIAL = torch.tensor([1.0, 3.0, 3.0, 1.0]).outer(torch.tensor([1.0, 3.0, 3.0, 1.0])) / 64


def test_velocity_of_slimflows_adm_is_the_reference_implementations(test_data):
    case = test_data / "parity" / "slimflow-adm-tiny"
    checkpoint = torch.load(case.with_suffix(".pth"), weights_only=True)
    state = parameters(checkpoint["model"])
    spec, image = edm_weights.read_adm(state, time_scale=999.0)
    layout = json.loads(case.with_suffix(".json").read_text())
    assert spec == ADMSpec(
        channels=layout["model_channels"],
        channel_multipliers=layout["channel_mult"],
        blocks=layout["num_res_blocks"],
        attention_resolutions=layout["attn_resolutions"],
    )
    assert image == ImageShape(channels=3, size=32, classes=layout["num_classes"])
    network = spec.build(image).eval()
    assert sum(value.numel() for value in network.parameters()) == layout["parameters"]
    averages = named_averages(state, checkpoint["ema"]["shadow_params"])
    network.load_state_dict(edm_weights.from_edm(averages, network, image.size))
    reference = load_file(case.with_suffix(".safetensors"))
    start, label = reference["ode_start"], reference["label"]
    with torch.no_grad():
        velocity = network(reference["x"], reference["t"], label)
        one_step = start + network(start, torch.zeros(len(start)), label[: len(start)])
    assert (velocity - reference["velocity"]).abs().max() < 1e-5
    assert (one_step - reference["one_step"]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "image"),
    [
        ({}, CONDITIONAL),
        ({"blocks": 3, "augment": 9, "embedding_multiplier": 2}, CONDITIONAL),
        ({"channel_multipliers": (2, 4, 4), "attention_resolutions": ()}, CONDITIONAL),
        ({"channel_multipliers": (4,), "attention_resolutions": (8,)}, GREY),
    ],
)
def test_any_adm_is_read_back(changes, image, published, randomised):
    spec = ADM.model_copy(update=changes | {"time_scale": 1.0})
    network = randomised(spec.build(image))
    state = published(network, edm_weights.sources(network, image.size))
    assert edm_weights.read_adm(state, time_scale=1.0) == (spec, image)
    again = edm_weights.from_edm(state, network, image.size)
    assert all(torch.equal(again[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "image"),
    [
        ({}, CONDITIONAL),
        ({"blocks": 3, "augment": 9, "embedding_multiplier": 2}, GREY),
        ({"channel_multipliers": (1, 2, 2), "attention_resolutions": (16, 4)}, CONDITIONAL),
        ({"embedding": "fourier", "feature_multiplier": 2, "encoder": "residual"}, CONDITIONAL),
        ({"channel_multipliers": (3,), "attention_resolutions": ()}, GREY),
    ],
)
def test_any_song_unet_is_read_back(changes, image, published, randomised):
    spec = DDPMPP.model_copy(update=changes)
    network = randomised(spec.build(image))
    state = published(network, edm_weights.sources(network, image.size))
    found, shape = edm_weights.read_song_unet(state)
    assert (found, shape) == (spec, image)
    again = edm_weights.from_edm(state, network, image.size)
    assert all(torch.equal(again[name], value) for name, value in network.state_dict().items())


def test_resampling_filters_are_read_and_are_no_parameters(published):
    network = DDPMPP.model_copy(update={"resampling": "binomial"}).build(CONDITIONAL)
    state = published(network, edm_weights.sources(network, 16))
    state["enc.8x8_down.conv0" + FILTER] = BINOMIAL[None, None]
    assert edm_weights.read_song_unet(state)[0].resampling == "binomial"
    edm_weights.from_edm(state, network, 16)
    state["dec.16x16_up.conv0" + FILTER] = torch.ones(1, 1, 2, 2) / 4
    with pytest.raises(ValueError, match="resamples with other filters"):
        edm_weights.read_song_unet(state)


def test_an_adm_with_another_filter_is_refused(published):
    network = ADM.build(CONDITIONAL)
    state = published(network, edm_weights.sources(network, 16))
    state["enc.8x8_down.conv0" + FILTER] = BINOMIAL[None, None]
    with pytest.raises(ValueError, match=r"resamples with \[1, 3, 3, 1\]"):
        edm_weights.read_adm(state, time_scale=1.0)


@pytest.mark.parametrize("bad", ["map_layer0.weight", "enc.16x16_conv.weight", "map_layer1.bias"])
def test_one_bad_tensor_does_not_hide_the_architecture_and_all_are_listed(bad, published):
    network = ADM.build(CONDITIONAL)
    state = published(network, edm_weights.sources(network, 16))
    good = tuple(state[bad].shape)
    state[bad] = torch.zeros(7, *good[1:])
    del state["dec.8x8_in0.qkv.weight"]
    state["enc.16x16_block0.extra"] = torch.zeros(2)
    assert edm_weights.read_adm(state, time_scale=999.0) == (ADM, CONDITIONAL)
    with pytest.raises(ValueError, match="3 tensors differ") as caught:
        edm_weights.from_edm(state, network, 16)
    for line in (
        f"misshapen {bad} {tuple(state[bad].shape)}, wanted {good}",
        "missing dec.8x8_in0.qkv.weight (192, 64, 1, 1)",
        "unexpected enc.16x16_block0.extra (2,)",
    ):
        assert line in str(caught.value)


def test_what_is_no_network_at_all_says_so():
    with pytest.raises(ValueError, match="no tensor that tells the size of its images\n  fix"):
        edm_weights.read_adm({"weight": torch.zeros(2)}, time_scale=1.0)
    with pytest.raises(ValueError, match="of type 'skip'"):
        edm_weights.read_song_unet({"enc.8x8_aux_skip.weight": torch.zeros(1)})
