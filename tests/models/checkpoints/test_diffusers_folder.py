"""Folders of diffusers: against the package's own network, tables and samplers."""

import json
import os
import pickle

import pytest
import torch

from slimctl.models.checkpoints import load_teacher
from slimctl.models.flows.denoising import DiffusionFlow
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.networks.diffusers_unet.spec import DiffusersUNetSpec
from slimctl.models.spec import ImageShape

diffusers = pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")

CONFIG = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}


def unet(**changes):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**(CONFIG | changes)).eval()


def inputs(channels=3, size=8):
    torch.manual_seed(1)
    return torch.randn(3, channels, size, size), torch.tensor([0.1, 0.5, 0.9])


@pytest.fixture
def write(tmp_path):
    """A folder as `DDPMPipeline.save_pretrained` writes it, or without the subfolders."""

    def write_folder(model, scheduler, flat=False, safe=True):
        model.save_pretrained(tmp_path if flat else tmp_path / "unet", safe_serialization=safe)
        if scheduler is not None:
            scheduler.save_pretrained(tmp_path if flat else tmp_path / "scheduler")
        return tmp_path

    return write_folder


@pytest.mark.parametrize("flat", [False, True], ids=["pipeline", "model"])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("predicted", ["epsilon", "sample", "v_prediction"])
@torch.no_grad()
def test_predictions_at_the_steps_are_the_packages(write, predicted, betas, flat):
    model = unet()
    scheduler = diffusers.DDPMScheduler(beta_schedule=betas, prediction_type=predicted)
    flow = load_teacher(write(model, scheduler, flat))
    assert isinstance(flow, DiffusionFlow)
    alpha = scheduler.alphas_cumprod
    steps = torch.tensor([0, 400, 900])
    x_s, _ = inputs()
    a, b = (part.sqrt()[:, None, None, None] for part in (alpha[steps], 1 - alpha[steps]))
    answer = model(x_s, steps).sample
    image = {
        "epsilon": (x_s - b * answer) / a,
        "sample": answer,
        "v_prediction": a * x_s - b * answer,
    }[predicted]
    noise = (x_s - a * image) / b
    sigma = (b / a).flatten()
    assert torch.allclose(flow.denoise(x_s / a, sigma), image, rtol=1e-3, atol=1e-3)
    velocity = flow.velocity(x_s / (a + b), 1 / (1 + sigma))
    assert torch.allclose(velocity, image - noise, rtol=1e-3, atol=2e-3 * float((1 / b).max()))
    assert flow.sigma_max == pytest.approx(float(((1 - alpha[-1]) / alpha[-1]).sqrt()), rel=2e-3)


@torch.no_grad()
def test_many_small_steps_end_where_ddim_does(write):
    """Both integrate the same ODE; DDIM's step is Euler's in another variable."""
    from slimctl.models.solvers.base import solve
    from slimctl.models.solvers.spec import EDMHeunSpec

    model = unet()
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
    flow = load_teacher(write(model, scheduler))
    x, _ = inputs()
    ours = solve(EDMHeunSpec(steps=40, sigma_max=flow.sigma_max), flow, x)
    scheduler.set_timesteps(500)
    alpha = scheduler.alphas_cumprod[-1]
    x = x * ((1 - alpha) / alpha).sqrt() * alpha.sqrt()
    for step in scheduler.timesteps:
        x = scheduler.step(model(x, step).sample, step, x).prev_sample
    assert (ours.x1 - x).abs().max() < 0.02 * float(x.abs().max())


@torch.no_grad()
def test_flow_matching_is_turned_round(write):
    model = unet()
    flow = load_teacher(write(model, diffusers.FlowMatchEulerDiscreteScheduler()))
    assert isinstance(flow, NetworkFlow)
    xt, t = inputs()
    assert torch.equal(flow.velocity(xt, t), -model(xt, 1000 * (1 - t)).sample)
    assert flow.t_start == 0.0


@torch.no_grad()
def test_classes_variances_and_old_files_are_understood(write):
    model = unet(num_class_embeds=5, out_channels=6, in_channels=3)
    folder = write(model, diffusers.DDPMScheduler(variance_type="learned_range"), safe=False)
    flow = load_teacher(folder)
    assert flow.image == ImageShape(channels=3, size=8, classes=5)
    x, label = inputs()[0], torch.tensor([0, 4, 2])
    sigma = torch.full((3,), flow.sigma_min)
    answer = model(x / (1 + sigma[0] ** 2).sqrt(), torch.zeros(3), class_labels=label).sample
    expected = x - sigma[0] * answer[:, :3]
    assert torch.allclose(flow.denoise(x, sigma, label), expected, atol=1e-5)
    assert load_teacher(folder, classes=4).image.classes == 4


def test_a_model_without_a_scheduler_needs_a_schedule(write):
    folder = write(unet(), None, flat=True)
    with pytest.raises(ValueError, match="so what its network predicts is not known"):
        load_teacher(folder)
    assert load_teacher(folder, prediction="noise").prediction == "noise"
    assert isinstance(load_teacher(folder, prediction="velocity"), NetworkFlow)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "ScoreSdeVeScheduler"}, "has a ScoreSdeVeScheduler, which this program"),
        ({"prediction_type": "flow_prediction"}, "predicts flow_prediction"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule 'sigmoid'"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
    ],
)
def test_other_schedulers_are_refused(write, changes, message):
    folder = write(unet(), diffusers.DDPMScheduler())
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        load_teacher(folder)


def test_other_networks_and_damage_are_refused(write, tmp_path):
    folder = write(unet(), diffusers.DDPMScheduler())
    config, weights = folder / "unet" / "config.json", folder / "unet"
    good = json.loads(config.read_text())
    for changes, message in [
        ({"_class_name": "UNet2DConditionModel"}, "class UNet2DConditionModel"),
        ({"sample_size": None}, "does not say the size"),
        ({"class_embed_type": "timestep"}, "class_embed_type timestep"),
        ({"layers_per_block": 2}, "tensors differ:\n  missing"),
    ]:
        config.write_text(json.dumps(good | changes))
        with pytest.raises(ValueError, match=message):
            load_teacher(folder)
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is no readable JSON"):
        load_teacher(folder)
    config.write_text(json.dumps(good))
    with pytest.raises(ValueError, match="images of 8 px, not 16"):
        load_teacher(folder, size=16)
    (weights / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no diffusion_pytorch_model"):
        load_teacher(folder)
    (folder / "vae").mkdir()
    with pytest.raises(ValueError, match="makes latents"):
        load_teacher(folder)


def test_old_weights_that_would_call_the_shell_are_refused(write):
    folder = write(unet(), diffusers.DDPMScheduler())
    trace = folder / "trace"

    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {trace}",)

    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    bad = folder / "unet" / "diffusion_pytorch_model.bin"
    bad.write_bytes(pickle.dumps({"weight": Harm()}))
    with pytest.raises(ValueError, match="nothing was run"):
        load_teacher(folder)
    torch.save({"weight": Harm()}, bad)
    with pytest.raises(ValueError, match="nothing was run"):
        load_teacher(folder)
    assert not trace.exists()


def same(one, other):
    x, t = inputs()
    return torch.equal(one.velocity(x, t), other.velocity(x, t))


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_and_variants_are_read_and_counted(tmp_path, safe, variant):
    from slimctl.models.checkpoints.paths import files_of

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, size in ((whole, "10GB"), (parts, "20KB")):
        options = {"safe_serialization": safe, "variant": variant, "max_shard_size": size}
        unet().save_pretrained(folder, **options)
        diffusers.DDPMScheduler().save_pretrained(folder)
    read = files_of(parts)
    assert set(read) == set(parts.iterdir())
    assert len(read) > 4
    assert same(load_teacher(parts), load_teacher(whole))
    assert same(load_teacher(parts), load_teacher(parts, variant=variant))
    with pytest.raises(ValueError, match="has no diffusion_pytorch_model"):
        load_teacher(parts, variant="bf16")
    next(file for file in read if "-of-" in file.name).unlink()
    with pytest.raises(ValueError, match="lacks diffusion_pytorch_model"):
        load_teacher(parts)


def test_an_index_cannot_lead_out_of_its_folder(write):
    folder = write(unet(), diffusers.DDPMScheduler(), flat=True)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    for content, message in [
        ({"weight_map": {"a": "../other.safetensors"}}, "names files outside its folder"),
        ({"weights": {}}, "no readable index"),
    ]:
        index.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            load_teacher(folder)


def test_old_names_of_attention_are_todays(write):
    from safetensors.torch import load_file, save_file

    folder = write(unet(), diffusers.DDPMScheduler(), flat=True)
    today = load_teacher(folder)
    file = folder / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(file)
    for new, name in old.items():
        state = {each.replace(f".{new}.", f".{name}."): value for each, value in state.items()}
    assert any("proj_attn" in name for name in state)
    save_file(state, file)
    reference = diffusers.UNet2DModel.from_pretrained(folder).eval()
    flow, (x, t) = load_teacher(folder), inputs()
    assert same(flow, today)
    assert torch.equal(flow.network.unet(x, 7).sample, reference(x, 7).sample)
    assert len(t) == len(x)


def test_a_training_checkpoint_has_averages_beside_the_weights(tmp_path):
    from slimctl.models.checkpoints.paths import files_of

    for seed, name in ((0, "unet"), (1, "unet_ema")):
        torch.manual_seed(seed)
        diffusers.UNet2DModel(**CONFIG).save_pretrained(tmp_path / name)
    config = tmp_path / "unet_ema" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"decay": 0.9, "power": 0.7}))
    known = {"prediction": "noise"}
    averaged = load_teacher(tmp_path, **known)
    plain = load_teacher(tmp_path, ema=False, **known)
    assert same(averaged, load_teacher(tmp_path / "unet_ema", **known))
    assert same(plain, load_teacher(tmp_path / "unet", ema=False, **known))
    assert not same(plain, averaged)
    assert files_of(tmp_path)[0].parent.name == "unet_ema"
    assert files_of(tmp_path, ema=False)[0].parent.name == "unet"
    with pytest.raises(ValueError, match="averages lie in unet_ema beside it\n  fix: give "):
        load_teacher(tmp_path / "unet", **known)
    with pytest.raises(ValueError, match=r"averaged weights only\n  fix: give .*unet"):
        load_teacher(tmp_path / "unet_ema", ema=False, **known)


def test_the_variant_without_averages_is_for_ema_false(write):
    folder = write(unet(), diffusers.DDPMScheduler(), flat=True)
    averaged = load_teacher(folder)
    with pytest.raises(ValueError, match="one set of weights only"):
        load_teacher(folder, ema=False)
    torch.manual_seed(1)
    diffusers.UNet2DModel(**CONFIG).save_pretrained(folder, variant="non_ema")
    assert same(load_teacher(folder), averaged)
    assert not same(load_teacher(folder, ema=False), averaged)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="no averaged weights\n  fix: give ema: false"):
        load_teacher(folder)


def test_a_spec_says_what_does_not_fit():
    spec = DiffusersUNetSpec(config=CONFIG)
    for image, message in [
        (ImageShape(channels=1, size=8), "in_channels is 3, but the images have 1"),
        (ImageShape(channels=3, size=7), "7 px cannot be halved 1 times"),
        (ImageShape(channels=3, size=8, classes=2), "num_class_embeds is 0, but there are 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            spec.check(image)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    from slimctl.models.networks.diffusers_unet import spec

    monkeypatch.setattr(spec, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'slimctl\[diffusers\]'"):
        DiffusersUNetSpec(config=CONFIG).check(ImageShape(channels=3, size=8))


def test_its_cost_is_counted():
    from slimctl.models.metrics.cost import count_macs

    spec = DiffusersUNetSpec(config=CONFIG)
    assert count_macs(spec, ImageShape(channels=3, size=8)) > 10_000
