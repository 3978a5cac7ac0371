"""Checkpoints of SiT: against its network written down again, and the numbers of its own code."""

import argparse
import math
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from slimctl.models.checkpoints import load_teacher
from slimctl.models.spec import ImageShape

pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")

WIDTH, HEADS, LAYERS, PATCH, CLASSES, SIZE = 12, 3, 2, 2, 4, 4


def positions(width, grid):
    """Sines and cosines of rows and columns; SiT's own order: columns first."""
    rates = 1.0 / 10000 ** (torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    parts = []
    for place in (column, row):
        angle = place.reshape(-1, 1).double() * rates
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, 1).float()[None]


def weights():
    torch.manual_seed(0)
    shapes = {
        "x_embedder.proj": (WIDTH, 4, PATCH, PATCH),
        "t_embedder.mlp.0": (WIDTH, 256),
        "t_embedder.mlp.2": (WIDTH, WIDTH),
        "final_layer.linear": (PATCH * PATCH * 8, WIDTH),
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
    }
    for i in range(LAYERS):
        shapes |= {
            f"blocks.{i}.attn.qkv": (3 * WIDTH, WIDTH),
            f"blocks.{i}.attn.proj": (WIDTH, WIDTH),
            f"blocks.{i}.mlp.fc1": (4 * WIDTH, WIDTH),
            f"blocks.{i}.mlp.fc2": (WIDTH, 4 * WIDTH),
            f"blocks.{i}.adaLN_modulation.1": (6 * WIDTH, WIDTH),
        }
    state = {"pos_embed": positions(WIDTH, SIZE // PATCH)}
    state["y_embedder.embedding_table.weight"] = torch.randn(CLASSES + 1, WIDTH)
    for name, shape in shapes.items():
        state[f"{name}.weight"] = 0.3 * torch.randn(shape)
        state[f"{name}.bias"] = 0.3 * torch.randn(shape[0])
    return state


def sit(w, x, t, label):
    """SiT's forward pass: Ma et al., arXiv 2401.08740, models.py."""

    def layer(name, h):
        return functional.linear(h, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(h, shift, scale):
        return functional.layer_norm(h, (WIDTH,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    h = functional.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=PATCH)
    h = h.flatten(2).transpose(1, 2) + w["pos_embed"]
    rates = torch.exp(-math.log(10000) * torch.arange(128) / 128)
    angle = t[:, None] * rates
    time = torch.cat([angle.cos(), angle.sin()], 1)
    c = layer("t_embedder.mlp.2", functional.silu(layer("t_embedder.mlp.0", time)))
    c = functional.silu(c + w["y_embedder.embedding_table.weight"][label])
    for i in range(LAYERS):
        a1, b1, g1, a2, b2, g2 = layer(f"blocks.{i}.adaLN_modulation.1", c).chunk(6, 1)
        qkv = layer(f"blocks.{i}.attn.qkv", norm(h, a1, b1))
        q, k, v = qkv.view(len(x), -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = h + g1[:, None] * layer(f"blocks.{i}.attn.proj", mixed)
        inner = functional.gelu(layer(f"blocks.{i}.mlp.fc1", norm(h, a2, b2)), approximate="tanh")
        h = h + g2[:, None] * layer(f"blocks.{i}.mlp.fc2", inner)
    shift, scale = layer("final_layer.adaLN_modulation.1", c).chunk(2, 1)
    h = layer("final_layer.linear", norm(h, shift, scale))
    grid = SIZE // PATCH
    h = h.view(len(x), grid, grid, PATCH, PATCH, 8).permute(0, 5, 1, 3, 2, 4)
    return h.reshape(len(x), 8, SIZE, SIZE)[:, :4]


def training_checkpoint(state):
    """What SiT's train.py saves: the averages are meant."""
    return {
        "model": {k: v if k == "pos_embed" else 0.5 * v for k, v in state.items()},
        "ema": state,
        "opt": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
        "args": argparse.Namespace(model="SiT-XL/2", num_classes=1000),
    }


@pytest.mark.parametrize(
    "saved", [lambda state: state, training_checkpoint], ids=["plain", "train"]
)
@torch.no_grad()
def test_the_velocity_is_that_of_its_own_network(tmp_path, saved):
    state = weights()
    torch.save(saved(state), tmp_path / "sit.pt")
    flow = load_teacher(tmp_path / "sit.pt", num_heads=HEADS)
    assert (flow.image, flow.null_class) == (ImageShape(channels=4, size=SIZE, classes=4), 4)
    x, t, label = torch.randn(3, 4, 4, 4), torch.tensor([0.0, 0.3, 1.0]), torch.tensor([0, 3, 4])
    assert torch.allclose(flow.velocity(x, t, label), sit(state, x, t, label), rtol=1e-5, atol=2e-5)


def test_the_plain_weights_of_a_training_checkpoint(tmp_path):
    torch.save(training_checkpoint(weights()), tmp_path / "sit.pt")
    network = load_teacher(tmp_path / "sit.pt", ema=False, num_heads=HEADS).network
    first = network.get_parameter("model.pos_embed.proj.weight")
    assert torch.equal(first, 0.5 * weights()["x_embedder.proj.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("blocks.1.mlp.fc2.bias"),
            r"missing model\.transformer_blocks\.1\.ff\.net",
        ),
        (lambda s: s.update(more=torch.zeros(2)), r"unexpected more \(2,\)"),
        (lambda s: s["pos_embed"].add_(1.0), "pos_embed that is not the sine and cosine"),
        (lambda s: s.pop("y_embedder.embedding_table.weight"), r"missing y_embedder"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    state = weights()
    change(state)
    torch.save(state, tmp_path / "sit.pt")
    with pytest.raises(ValueError, match=message):
        load_teacher(tmp_path / "sit.pt", num_heads=HEADS)


def test_heads_must_divide_the_width(tmp_path):
    torch.save(weights(), tmp_path / "sit.pt")
    with pytest.raises(ValueError, match=r"cannot have num_heads 5\n  fix: .* divides"):
        load_teacher(tmp_path / "sit.pt", num_heads=5)


class Forged:
    def __reduce__(self):
        return os.system, ("echo this was run",)


def test_a_forged_pickle_is_refused(tmp_path, capfd):
    torch.save(weights() | {"args": Forged()}, tmp_path / "sit.pt", pickle_module=pickle)
    with pytest.raises(ValueError, match=r"would use \w+\.system; nothing was run"):
        load_teacher(tmp_path / "sit.pt", num_heads=HEADS)
    assert "this was run" not in capfd.readouterr().out


@torch.no_grad()
def test_the_reference_checkpoint_gives_the_reference_numbers(test_data):
    data = test_data / "latent" / "sit"
    if not data.is_dir():
        pytest.skip("the development data has no latent pipelines")
    wanted = load_file(data / "reference.safetensors")
    flow = load_teacher(data / "sit.pt", num_heads=3)
    x, t = wanted["raw.x"], wanted["raw.t"]
    for name, label in (("cond", "label"), ("uncond", "null_label")):
        made = flow.velocity(x, t, wanted[label])
        assert torch.allclose(made, wanted[f"raw.{name}"], rtol=0, atol=2e-5)
    for name, scale in (("plain", 1.0), ("guided", 4.0)):
        x = wanted["noise"]
        for i in range(4):
            time = torch.full((2,), i / 4)
            null = flow.velocity(x, time, wanted["null_label"])
            x = x + (null + scale * (flow.velocity(x, time, wanted["label"]) - null)) / 4
            off = (x - wanted[f"{name}.after"][i]).abs().max()
            assert float(off) < 1e-4 * float(x.abs().max())
