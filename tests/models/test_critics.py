import pytest
import torch
from torch import nn
from torch.nn import functional

from slimctl.models.critics import Critic
from slimctl.models.flows.analytic import AnalyticFlow
from slimctl.models.flows.denoising import EDMFlow
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.losses import critic_loss, deception_loss
from slimctl.models.networks.registry import parse_network
from slimctl.models.spec import ImageShape

NETWORKS = {
    "song_unet": {"channels": 8, "channel_multipliers": [1, 2], "attention_resolutions": []},
    "adm": {"channels": 8, "channel_multipliers": [1, 2], "attention_resolutions": []},
    "mlp": {"width": 16},
}
DEEPEST = {"song_unet": (16, 2), "adm": (16, 2), "mlp": (16, 1)}
"""Channels and height of the bottleneck for images of 4 x 4."""
IMAGE = ImageShape(channels=1, size=4, classes=3)
X = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
T = torch.linspace(0.1, 0.9, 5)
LABEL = torch.tensor([0, 1, 2, 0, 1])


def network(kind, image=IMAGE):
    torch.manual_seed(1)
    made = parse_network({"kind": kind, **NETWORKS[kind]}).build(image)
    with torch.no_grad():  # the published initialisation makes the output nearly 0
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return made


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("wrap", [NetworkFlow, EDMFlow])
def test_a_critic_judges_by_the_bottleneck_and_leaves_the_velocity_alone(kind, wrap):
    made = network(kind)
    flow = wrap(made, IMAGE)
    critic = Critic(flow, head="convolution")
    seen = []
    made.bottleneck.register_forward_hook(lambda *args: seen.append(args[2]))
    velocity, logit = critic(X, T, LABEL)
    assert torch.equal(velocity, flow.velocity(X, T, LABEL))
    channels, height = DEEPEST[kind]
    assert seen[0].shape == (5, channels, height, height)
    assert torch.equal(logit, critic.head(seen[0]))
    assert logit.shape == (5,)


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_layer_comes_after_the_bottleneck_before_the_judgement(kind):
    """The head's gradient reaches the way down and the bottleneck, and not the way up."""
    made = network(kind)
    logit = Critic(NetworkFlow(made, IMAGE), head="convolution")(X, T, LABEL)[1]
    logit.sum().backward()
    reached = {name for name, weight in made.named_parameters() if weight.grad is not None}
    ends = {name for name, _ in made.named_parameters() if name.startswith(("up.", "head"))}
    assert ends
    assert reached == {name for name, _ in made.named_parameters()} - ends


def test_an_unconditional_critic_without_a_head_judges_nothing():
    image = ImageShape(channels=1, size=4)
    flow = NetworkFlow(network("mlp", image), image)
    velocity, logit = Critic(flow)(X, T)
    assert torch.equal(velocity, flow.velocity(X, T))
    assert logit is None


def test_the_hook_does_not_stay():
    critic = Critic(NetworkFlow(network("mlp"), IMAGE), head="convolution")
    critic(X, T, LABEL)
    with pytest.raises(ValueError, match="pass a label"):
        critic(X, T)
    assert not critic.flow.network.bottleneck._forward_hooks


def test_what_has_no_bottleneck_is_refused():
    closed = AnalyticFlow(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="has no network"):
        Critic(closed, head="convolution")
    plain = NetworkFlow(nn.Conv2d(1, 1, 3), ImageShape(channels=1, size=4))
    with pytest.raises(ValueError, match="Conv2d names no bottleneck"):
        Critic(plain, head="convolution")


def test_the_losses_are_cross_entropies():
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 3.0, -4.0])
    entropy = functional.binary_cross_entropy_with_logits
    expected = entropy(real, torch.ones(2)) + entropy(fake, torch.zeros(3))
    torch.testing.assert_close(critic_loss(real, fake), expected)
    torch.testing.assert_close(deception_loss(fake), entropy(fake, torch.ones(3)))


def test_a_critic_learns_to_tell_two_distributions_apart():
    torch.manual_seed(0)
    critic = Critic(NetworkFlow(network("mlp"), IMAGE), head="convolution")
    optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
    for _ in range(60):
        real, fake = 0.5 + 0.1 * torch.randn(32, 1, 4, 4), -0.5 + 0.1 * torch.randn(32, 1, 4, 4)
        t, label = torch.ones(64), torch.zeros(64, dtype=torch.int64)
        logit = critic(torch.cat((real, fake)), t, label)[1]
        loss = critic_loss(logit[:32], logit[32:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1  # 1.39 where it cannot tell


def test_the_mean_over_the_channels_judges_every_place_without_weights():
    """SiDA's: the same network learns the flow and judges, and nothing is added to it."""
    made = network("song_unet")
    critic, seen = Critic(NetworkFlow(made, IMAGE), "mean"), []
    made.bottleneck.register_forward_hook(lambda *args: seen.append(args[2]))
    _, logit = critic(X, T, LABEL)
    torch.testing.assert_close(logit, seen[0].mean(1).flatten(1))
    assert not [*critic.head.parameters()]
    expected = functional.softplus(logit).mean() + functional.softplus(-logit).mean()
    torch.testing.assert_close(critic_loss(real=logit, fake=logit), expected)
