"""Pipelines of latents: against the package's own networks, schedulers and autoencoders."""

import json
from itertools import pairwise

import builders
import pytest
import torch
from safetensors.torch import load_file

from slimctl.models.checkpoints import load_teacher
from slimctl.models.conditions import Embedded
from slimctl.models.spec import ImageShape

diffusers = pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")

NULL = 5


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "dit"


@pytest.fixture
def pipeline(folder):
    return builders.save_dit(diffusers, folder)


@torch.no_grad()
def ddim(pipeline, noise, label, steps, scale):
    """The loop of the package's pipeline, with the points before its steps and at the end."""
    scheduler, x, states = pipeline.scheduler, noise, []
    scheduler.set_timesteps(steps)
    for step in scheduler.timesteps:
        states.append(x)
        time = step.expand(len(x))
        answer = pipeline.transformer(x, time, class_labels=label).sample[:, :4]
        null = torch.full_like(label, NULL)
        other = pipeline.transformer(x, time, class_labels=null).sample[:, :4]
        x = scheduler.step(other + scale * (answer - other), step, x).prev_sample
    return [*states, x]


def times(scheduler, steps):
    """Our time of each step and of the end, and the level sigma."""
    alphas = scheduler.alphas_cumprod
    levels = [float(((1 - alphas[step]) / alphas[step]).sqrt()) for step in scheduler.timesteps]
    return [(1 / (1 + sigma), sigma) for sigma in [*levels, 0.0]]


def ours(sample, sigma):
    """A sample of variance 1 at our scale."""
    return sample * (1 + sigma**2) ** 0.5 / (1 + sigma)


@torch.no_grad()
def test_the_steps_of_its_own_scheduler_are_eulers_steps_of_the_velocity(folder, pipeline):
    torch.manual_seed(1)
    noise, label = torch.randn(3, 4, 8, 8), torch.tensor([0, 4, NULL])
    flow = load_teacher(folder)
    assert (flow.image, flow.null_class) == (ImageShape(channels=4, size=8, classes=5), NULL)
    states = ddim(pipeline, noise, label, 4, 1.0)
    known = times(pipeline.scheduler, 4)
    for (before, after), ((t, sigma), (t_next, sigma_next)) in zip(
        pairwise(states), pairwise(known), strict=True
    ):
        velocity = flow.velocity(ours(before, sigma), torch.full((3,), t), label)
        made = ours(before, sigma) + (t_next - t) * velocity
        wanted = ours(after, sigma_next)
        assert float((made - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
    images = pipeline.vae.decode(states[-1] / 0.2).sample
    assert torch.allclose(flow.decode(states[-1]), images, atol=1e-5)


def test_the_folder_is_read_in_half_precision_and_in_shards(folder, pipeline, tmp_path):
    whole = load_teacher(folder).network.state_dict()
    pipeline.transformer.save_pretrained(folder / "transformer", max_shard_size="10KB")
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    sharded = load_teacher(folder).network.state_dict()
    assert all(torch.equal(whole[name], value) for name, value in sharded.items())
    pipeline.to(torch.float16).save_pretrained(tmp_path / "half")
    half = load_teacher(tmp_path / "half")
    assert {weight.dtype for weight in half.parameters()} == {torch.float32}
    assert all(
        torch.equal(whole[k].half().float(), v) for k, v in half.network.state_dict().items()
    )


def test_no_label_is_dropped_in_training(folder, pipeline):
    flow = load_teacher(folder).train()
    x, t = torch.randn(64, 4, 8, 8), torch.full((64,), 0.5)
    label = torch.zeros(64, dtype=torch.int64)
    assert torch.equal(flow.velocity(x, t, label), flow.velocity(x, t, label))


def test_labels_are_classes_or_the_null_class(folder, pipeline):
    flow = load_teacher(folder)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([0.5])
    assert flow.velocity(x, t, torch.tensor([NULL])).isfinite().all()
    with pytest.raises(ValueError, match=r"labels run from 6 to 6: this model has 0\.\.4, and 5"):
        flow.velocity(x, t, torch.tensor([6]))


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def unknown_pipeline(folder):
    edit(folder / "model_index.json", _class_name="WuerstchenPriorPipeline")


def unknown_network(folder):
    edit(folder / "transformer" / "config.json", _class_name="PriorTransformer")


def pickled(folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))


def other_channels(folder):
    edit(folder / "vae" / "config.json", latent_channels=16)


def no_autoencoder(folder):
    (folder / "vae" / "config.json").unlink()


def lost_tensor(folder):
    from safetensors.torch import save_file

    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    state.pop("decoder.conv_in.weight")
    save_file({name: value.clone() for name, value in state.items()}, file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (unknown_pipeline, r"is a WuerstchenPriorPipeline, which .*\n.*fix: give a folder of DiTP"),
        (unknown_network, r"holds a PriorTransformer in transformer, .*\n.*DiTTransformer2DModel"),
        (pickled, r"transformer/diffusion_pytorch_model\.bin is a pickle.*\n.*safe_serialization"),
        (other_channels, r"an autoencoder of 16 latent channels, but its network takes 4"),
        (no_autoencoder, r"has no vae/config\.json to decode them by"),
        (lost_tensor, r"missing model\.decoder\.conv_in\.weight"),
    ],
)
def test_what_is_not_known_or_whole_is_refused(folder, pipeline, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load_teacher(folder)


@torch.no_grad()
def test_the_reference_pipeline_gives_the_reference_numbers(test_data):
    data = test_data / "latent" / "dit"
    if not data.is_dir():
        pytest.skip("the development data has no latent pipelines")
    wanted = load_file(data / "reference.safetensors")
    runs = json.loads((data / "reference.json").read_text())["runs"]
    flow = load_teacher(data / "pipeline")
    raw = flow.network.model(
        wanted["raw.x"], wanted["raw.broken_time"], class_labels=wanted["label"]
    ).sample
    assert torch.allclose(raw, wanted["raw.cond_at_broken_time"], rtol=0, atol=2e-5)
    for name, run in runs.items():
        known = list(zip(run["schedule"]["t"], run["schedule"]["sigmas"], strict=True))
        for i, ((t, sigma), (t_next, sigma_next)) in enumerate(pairwise(known)):
            xt, time = ours(wanted[f"{name}.before"][i], sigma), torch.full((2,), t)
            velocity = flow.velocity(xt, time, wanted["label"])
            null = flow.velocity(xt, time, wanted["null_label"])
            velocity = null + run["guidance_scale"] * (velocity - null)
            after = ours(wanted[f"{name}.after"][i], sigma_next)
            off = (xt + (t_next - t) * velocity - after).abs().max()
            assert float(off) < 1e-4 * float(after.abs().max())
        images = flow.decode(wanted[f"{name}.after"][-1])
        assert torch.allclose(images, wanted[f"{name}.image"], rtol=0, atol=1e-4)


UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "attention_head_dim": 2,
    "cross_attention_dim": 6,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


@pytest.fixture
def texts(tmp_path):
    """A folder as Stable Diffusion's without its encoders, and its network."""
    unet = builders.drawn(diffusers.UNet2DConditionModel(**UNET))
    parts = {
        "unet": unet,
        "vae": builders.drawn(diffusers.AutoencoderKL(**builders.VAE)),
        "scheduler": diffusers.DDIMScheduler(beta_schedule="scaled_linear"),
    }
    for name, part in parts.items():
        part.save_pretrained(tmp_path / name)
    index = {"_class_name": "StableDiffusionPipeline", "text_encoder": ["transformers", "Other"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    return tmp_path, unet


def embedded(count):
    return Embedded(torch.randn(count, 3, 6))


@torch.no_grad()
def test_a_network_of_texts_is_called_with_them_and_driven_away_from_others(texts):
    folder, unet = texts
    torch.manual_seed(3)
    flow, text, away = load_teacher(folder), embedded(2), embedded(1)
    x, step = torch.randn(2, 4, 8, 8), 600
    alpha = diffusers.DDIMScheduler(beta_schedule="scaled_linear").alphas_cumprod[step]
    sigma = float(((1 - alpha) / alpha).sqrt())
    t, xt = torch.full((2,), 1 / (1 + sigma)), ours(x, sigma)
    time = torch.full((2,), float(step))
    null = unet(x, time, away.sequence.expand(2, 3, 6)).sample
    answer = null + 3.0 * (unet(x, time, text.sequence).sample - null)
    wanted = (1 + sigma) * (xt - answer)
    made = flow.guided(3.0, away).velocity(xt, t, text)
    assert torch.allclose(made, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@torch.no_grad()
def test_instaflow_is_told_the_other_time_and_answers_the_velocity(texts):
    folder, unet = texts
    flow, text = load_teacher(folder, convention="instaflow"), embedded(2)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.0, 0.7])
    wanted = unet(x, 1000 * (1 - t), text.sequence).sample
    assert torch.allclose(flow.velocity(x, t, text), wanted, atol=1e-5)


def test_arguments_of_other_folders_and_encoders_that_are_not_known_are_refused(texts):
    folder, _ = texts
    with pytest.raises(ValueError, match=r"does not take guidance.*\n.*leave out embedded_guid"):
        load_teacher(folder, embedded_guidance=3.5)
    with pytest.raises(ValueError, match=r"has no tokenizer|transformers"):
        load_teacher(folder).encode("a cat")
    edit(folder / "unet" / "config.json", class_embed_type="timestep")
    with pytest.raises(ValueError, match="class_embed_type timestep, which"):
        load_teacher(folder)
