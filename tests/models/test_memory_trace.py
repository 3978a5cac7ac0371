"""What a network keeps, against tensors counted one by one on FakeTensors and real ones."""

import pytest
import torch
from fake_memory import fake_bytes
from torch.nn import functional

from slimctl.models.memory_trace import Autocast, FusedAttention, LiveBytes, trace_network
from slimctl.models.networks.memory import Evaluation, evaluation_bytes
from slimctl.models.networks.registry import parse_network
from slimctl.models.spec import ImageShape

META = torch.device("meta")
NETWORKS = {
    "ncsnpp": (
        {"kind": "song_unet", "channels": 32, "channel_multipliers": [1, 2], "blocks": 1},
        ImageShape(channels=3, size=32),
    ),
    "ddpmpp": (
        {
            "kind": "song_unet", "channels": 16, "channel_multipliers": [2, 2], "blocks": 1,
            "label_entry": "features", "resampling": "binomial", "encoder": "residual",
        },
        ImageShape(channels=3, size=16, classes=10),
    ),
    "adm": (
        {
            "kind": "adm", "channels": 32, "channel_multipliers": [1, 2], "head_channels": 16,
            "blocks": 1,
        },
        ImageShape(channels=3, size=32, classes=10),
    ),
    "mlp": ({"kind": "mlp", "width": 64}, ImageShape(channels=2, size=1)),
    "diffusers": (
        {
            "kind": "diffusers_unet",
            "config": {
                "block_out_channels": [32, 64], "layers_per_block": 1, "norm_num_groups": 8,
                "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
                "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
            },
        },
        ImageShape(channels=3, size=16),
    ),
}  # fmt: skip


def test_bytes_are_counted_once_and_until_nobody_has_them():
    live = LiveBytes()
    with live:
        first = torch.empty(256, device=META)
        view = first.view(16, 16).t()
        second = first + 1
        assert live.most == 2048
        del first, second
        torch.empty(128, device=META)
        assert live.most == 2048
        kept = [view, torch.empty(512, device=META), torch.empty(256, device=META)]
        assert live.most == 1024 + 2048 + 1024
        del kept


@pytest.mark.parametrize(
    ("name", "batch", "gradient"),
    [*((name, 24, True) for name in NETWORKS), ("ncsnpp", 2, True), ("adm", 3, False)],
)
def test_an_evaluation_takes_what_fake_tensors_take(name, batch, gradient):
    if name == "diffusers":
        pytest.importorskip("diffusers")
    network, image = parse_network(NETWORKS[name][0]), NETWORKS[name][1]

    def evaluate():
        module = network.build(image).train(gradient)
        xt = torch.empty(batch, image.channels, image.size, image.size)
        label = torch.empty(batch, dtype=torch.int64) if image.classes else None
        return lambda: functional.mse_loss(module(xt, torch.empty(batch), label), xt)

    wanted = fake_bytes(evaluate, backward=gradient)
    found, _ = evaluation_bytes(network, image, Evaluation(batch=batch, gradient=gradient))
    assert found == pytest.approx(wanted, rel=0.05)


def test_products_in_bfloat16_are_those_of_autocast():
    """Without norms, which a GPU keeps in float32 and a CPU does not."""
    network, image = parse_network(NETWORKS["mlp"][0]), NETWORKS["mlp"][1]

    def evaluate():
        module, xt = network.build(image).train(), torch.empty(500, 2, 1, 1)

        def loss():
            with torch.autocast("cpu", torch.bfloat16):
                output = module(xt, torch.empty(500))
            return functional.mse_loss(output.float(), xt)

        return loss

    wanted = fake_bytes(evaluate, backward=True)
    found, _ = trace_network(network, image, 500, gradient=True, bfloat16=True)
    assert found == pytest.approx(wanted, rel=0.05)
    assert found < 0.95 * trace_network(network, image, 500, gradient=True, bfloat16=False)[0]


def test_norms_stay_in_float32_and_attention_keeps_no_matrix():
    x = torch.empty(1, 1, 4096, 16, device=META)
    live = LiveBytes()
    with live, FusedAttention(), Autocast(on=True):
        product = functional.scaled_dot_product_attention(x, x, x)
        normed = functional.group_norm(product, 1)
    assert (product.dtype, normed.dtype) == (torch.bfloat16, torch.float32)
    assert live.most < 4096 * 16 * 4 * 8
