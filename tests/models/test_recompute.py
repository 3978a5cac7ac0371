import copy

import pytest
import torch

from slimctl.models.networks.memory import Evaluation, evaluation_bytes
from slimctl.models.networks.registry import parse_network
from slimctl.models.recompute import recompute_blocks
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=3, size=16)
UNET = {
    "block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 8,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}  # fmt: skip
NETWORKS = [
    {"kind": "song_unet", "channels": 16, "channel_multipliers": [1, 2], "dropout": 0.2},
    {"kind": "adm", "channels": 16, "channel_multipliers": [1, 2], "dropout": 0.2},
    {"kind": "diffusers_unet", "config": UNET},
]


def gradients(network):
    torch.manual_seed(1)
    xt, t = torch.randn(3, 3, 16, 16), torch.rand(3)
    (network(xt, t, None) - xt).square().mean().backward()
    return [weight.grad for weight in network.parameters()]


@pytest.mark.parametrize("fields", NETWORKS, ids=lambda fields: fields["kind"])
def test_gradients_are_the_same_bits_and_less_is_kept(fields):
    if fields["kind"] == "diffusers_unet":
        pytest.importorskip("diffusers")
    spec = parse_network(fields)
    torch.manual_seed(0)
    network = spec.build(IMAGE).train()
    with torch.no_grad():
        for weight in network.parameters():  # those that begin at 0 pass no gradient
            weight += 0.05 * torch.randn_like(weight)
    other = copy.deepcopy(network)
    assert recompute_blocks(other) > 4
    assert all(map(torch.equal, gradients(other), gradients(network)))
    assert other.state_dict().keys() == network.state_dict().keys()
    plain = evaluation_bytes(spec, IMAGE, Evaluation(batch=32, gradient=True))
    again = evaluation_bytes(spec, IMAGE, Evaluation(batch=32, gradient=True, recompute=True))
    assert again[0] < 0.7 * plain[0]


def test_a_copy_computes_its_own_blocks_again():
    network = parse_network(NETWORKS[0]).build(IMAGE).train()
    recompute_blocks(network)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(torch.nan)
    assert all(grad.isfinite().all() for grad in gradients(other))
