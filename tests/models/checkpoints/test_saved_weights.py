"""Checkpoints as other people's trainers write them."""

import argparse
import enum
import pathlib
import random

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from slimctl.models.checkpoints import load_teacher
from slimctl.models.flows.denoising import EDMFlow
from slimctl.models.networks import edm_weights
from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.song_unet import slimflow_weights
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

GREY = ImageShape(channels=1, size=32)
CONDITIONAL = ImageShape(channels=3, size=8, classes=5)
NCSNPP = SongUNetSpec(channels=8, blocks=1)
ADM = ADMSpec(
    channels=16, channel_multipliers=(1, 4), blocks=1, attention_resolutions=(4,), time_scale=1.0
)


class Mode(enum.Enum):
    FAST = 1


@pytest.fixture
def states(published, randomised):
    """Plain and averaged weights of an NCSN++, as SlimFlow names them, and the networks."""
    networks = [randomised(NCSNPP.build(GREY), seed=seed) for seed in (1, 2)]
    return [published(each, slimflow_weights.sources(each)) for each in networks], networks


def named(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def velocity(network):
    torch.manual_seed(3)
    x, t = torch.randn(2, 1, 32, 32), torch.tensor([0.2, 0.7])
    return network.velocity(x, t) if hasattr(network, "velocity") else network(x, t)


LAYOUTS = {
    "ddp of compiled": lambda raw, ema: {
        "model": named("module._orig_mod.", raw),
        "ema": {"shadow_params": list(ema.values()), "decay": 0.9},
    },
    "compiled ddp": lambda raw, ema: {
        "state_dict": named("_orig_mod.module.net.", raw),
        "ema_state_dict": named("module.", ema),
    },
    "lightning": lambda raw, ema: {
        "state_dict": {
            **named("model.", raw),
            **named("model_ema.", ema),
            "loss_fn.weight": torch.zeros(2),
        },
        "callbacks": {"ModelCheckpoint": {"best": torch.tensor(1.0)}},
        "hyper_parameters": {"lr": 1e-4},
    },
    "latent diffusion": lambda raw, ema: {
        "state_dict": {
            **named("model.", raw),
            **{f"model_ema.{name.replace('.', '')}": value for name, value in ema.items()},
            "model_ema.decay": torch.tensor(0.9),
        }
    },
    "averaged model": lambda raw, ema: {
        "net": raw,
        "params_ema": {"n_averaged": torch.tensor(3), **named("module.", ema)},
    },
    "ema pytorch": lambda raw, ema: {
        "ema": {**named("online_model.", raw), **named("ema_model.", ema), "step": torch.tensor(1)}
    },
    "list": lambda raw, ema: {"network": raw, "shadow_params": list(ema.values())},
    "optimizer": lambda raw, ema: {
        "model_ema": ema,
        "network": raw,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1.0}]},
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_and_averages_are_reported_apart(states, save, layout):
    (raw, ema), networks = states
    path = save(LAYOUTS[layout](raw, ema))
    assert torch.equal(velocity(load_teacher(path)), velocity(networks[1]))
    assert torch.equal(velocity(load_teacher(path, ema=False)), velocity(networks[0]))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_options_and_random_states_are_ignored(states, save, legacy):
    (raw, ema), networks = states
    beside = {
        "args": argparse.Namespace(lr=1e-4, out=pathlib.Path("x"), mode=Mode.FAST),
        "rng": {
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state(),  # noqa: NPY002
            "python": random.getstate(),
        },
        "generator": np.random.default_rng(0),
        "best": np.float64(3.0),
        "dtype": [torch.float16, torch.device("cpu"), torch.Size([2])],
    }
    path = save({"model": raw, "ema": ema, **beside}, _use_new_zipfile_serialization=not legacy)
    assert torch.equal(velocity(load_teacher(path)), velocity(networks[1]))


def test_several_networks_are_not_guessed_between(states, save):
    (raw, ema), _ = states
    with pytest.raises(ValueError, match="holds several networks, under critic, fake"):
        load_teacher(save({"fake": raw, "critic": ema}), ema=False)
    with pytest.raises(ValueError, match="holds several averages"):
        load_teacher(save({"model": raw, "ema_0.9": ema, "ema_0.99": ema}))


def test_a_whole_object_is_named(save):
    with pytest.raises(
        ValueError, match=r"whole object of class torch\.nn\.modules\.linear\.Linear"
    ):
        load_teacher(save(torch.nn.Linear(2, 2)))


def test_weights_larger_than_their_file_are_refused(save):
    with pytest.raises(ValueError, match="in a file of"):
        load_teacher(save({"model": {"w": torch.zeros(1).expand(10**5, 10**5)}}))


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
@pytest.mark.parametrize("kind", ["adm", "song_unet"])
def test_edms_networks_outside_snapshots(published, randomised, tmp_path, kind, ending):
    ddpmpp = SongUNetSpec(
        channels=8,
        channel_multipliers=(2, 2),
        blocks=1,
        attention_resolutions=(4,),
        time_scale=1.0,
        label_entry="features",
    )
    spec = ADM if kind == "adm" else ddpmpp
    network = randomised(spec.build(CONDITIONAL))
    state = published(network, edm_weights.sources(network, 8))
    path = tmp_path / f"bare.{ending}"
    state = {name: value.contiguous() for name, value in state.items()}
    (save_file if ending == "safetensors" else torch.save)(state, path)
    flow = load_teacher(path, prediction="edm", ema=ending == "safetensors")
    x, sigma, label = torch.randn(2, 3, 8, 8), torch.tensor([0.5, 3.0]), torch.tensor([0, 4])
    expected = EDMFlow(network, CONDITIONAL).denoise(x, sigma, label)
    assert torch.equal(flow.denoise(x, sigma, label), expected)
    if kind == "song_unet":
        with pytest.raises(ValueError, match="without saying what it predicts"):
            load_teacher(path, ema=ending == "safetensors")


def test_guided_diffusion_is_named(save):
    state = {"time_embed.0.weight": torch.zeros(2), "input_blocks.0.0.weight": torch.zeros(2)}
    with pytest.raises(ValueError, match="openai/guided-diffusion, which is not supported"):
        load_teacher(save(state), prediction="noise", classes=10)


def test_edm2_is_named(snapshot):
    path = snapshot("UNet", {"out_conv.weight": torch.zeros(1)}, "Precond", inner="unet")
    with pytest.raises(ValueError, match="a snapshot of EDM2"):
        load_teacher(path)
