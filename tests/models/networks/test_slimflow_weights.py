"""Loading SlimFlow's own checkpoints: same velocity as the reference, and no partial fits."""

import json

import pytest
import torch
from safetensors.torch import load_file

from slimctl.models.networks.published_weights import named_averages
from slimctl.models.networks.song_unet.slimflow_weights import from_slimflow, parameters
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

CIFAR = ImageShape(channels=3, size=32)
TINY = SongUNetSpec(channels=16, blocks=1)


@pytest.fixture(scope="module")
def case(test_data):
    return test_data / "parity" / "slimflow-ncsnpp-tiny"


@pytest.fixture(scope="module")
def checkpoint(case):
    return torch.load(case.with_suffix(".pth"), weights_only=True)


@pytest.fixture(scope="module")
def state(checkpoint):
    return named_averages(parameters(checkpoint["model"]), checkpoint["ema"]["shadow_params"])


def test_velocity_is_the_reference_implementations(case, state):
    layout = json.loads(case.with_suffix(".json").read_text())
    spec = SongUNetSpec(
        channels=layout["model_channels"],
        channel_multipliers=layout["channel_mult"],
        blocks=layout["num_res_blocks"],
        attention_resolutions=layout["attn_resolutions"],
    )
    network = spec.build(CIFAR).eval()
    assert sum(value.numel() for value in network.parameters()) == layout["parameters"]
    network.load_state_dict(from_slimflow(state, network))
    reference = load_file(case.with_suffix(".safetensors"))
    start = reference["ode_start"]
    with torch.no_grad():
        velocity = network(reference["x"], reference["t"])
        one_step = start + network(start, torch.zeros(len(start)))
    assert (velocity - reference["velocity"]).abs().max() < 1e-5
    assert (one_step - reference["one_step"]).abs().max() < 1e-5


def test_plain_weights_load_and_differ_from_the_averaged(checkpoint, state):
    network = TINY.build(CIFAR)
    plain = from_slimflow(checkpoint["model"], network)
    averaged = from_slimflow(state, network)
    network.load_state_dict(plain)
    assert plain.keys() == averaged.keys()
    assert not torch.equal(plain["stem.weight"], averaged["stem.weight"])


def test_every_misfit_is_listed(state):
    wrong = dict(state)
    del wrong["all_modules.6.NIN_1.W"]
    wrong["all_modules.2.bias"] = torch.zeros(5)
    wrong["all_modules.99.weight"] = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="3 tensors differ") as caught:
        from_slimflow(wrong, TINY.build(CIFAR))
    assert "missing all_modules.6.NIN_1.W (32, 32)" in str(caught.value)
    assert "misshapen all_modules.2.bias (5,), wanted (16,)" in str(caught.value)
    assert "unexpected all_modules.99.weight (2, 3)" in str(caught.value)
    assert "fix: give the channels" in str(caught.value)


def test_a_conditional_network_has_parameters_that_no_checkpoint_has(state):
    network = TINY.build(CIFAR.model_copy(update={"classes": 10}))
    with pytest.raises(ValueError, match=r"embedding\.label\.weight has no published counterpart"):
        from_slimflow(state, network)


def test_averages_of_another_network_are_refused(checkpoint):
    model, shadow = parameters(checkpoint["model"]), list(checkpoint["ema"]["shadow_params"])
    with pytest.raises(ValueError, match="211 averaged weights are not those of its 212"):
        named_averages(model, shadow[1:])
    shadow[1] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"average of all_modules\.0\.bias \(3,\), wanted \(64,\)"):
        named_averages(model, shadow)
