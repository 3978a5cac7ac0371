"""Parameters and multiply-adds by closed form; latency against a known wait."""

import time

import pytest
import torch
from torch import nn

from slimctl.models.metrics.cost import build_on_meta, count_macs, count_parameters, measure_latency
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape


class Sandwich(nn.Module):
    """Two convolutions and a linear layer, of which one convolution is strided and grouped."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2)
        self.outer = nn.Conv2d(2, 2, 1, bias=False)
        self.time = nn.Linear(1, 4)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, xt, t, label=None):
        h = self.norm(self.inner(xt) + self.time(t[:, None])[:, :, None, None])
        return self.outer(xt) + h.mean()


IMAGE = ImageShape(channels=2, size=6)


def test_closed_form():
    assert count_parameters(Sandwich()) == (4 * 9 + 4) + 4 + (4 + 4) + 8
    assert count_macs(Sandwich(), IMAGE) == 9 * 4 * 9 + 36 * 4 + 4


def test_shared_parameters_count_once():
    module = Sandwich()
    module.again = module.outer
    assert count_parameters(module) == count_parameters(Sandwich())


def test_counting_leaves_the_module_as_it_was():
    module = Sandwich().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    count_macs(module, IMAGE)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.training
    assert not any(layer._forward_hooks for layer in module.modules())


def test_spec_and_module_count_the_same_and_classes_add_no_multiplications():
    spec = SongUNetSpec(channels=8, blocks=1)
    image = ImageShape(channels=3, size=9)
    conditional = image.model_copy(update={"classes": 7})
    assert count_macs(spec, image) == count_macs(spec.build(image), image)
    assert count_macs(spec, conditional) == count_macs(spec, image)
    assert all(value.is_meta for value in build_on_meta(spec, image).parameters())


def test_latency_is_the_time_of_one_call():
    calls = []

    def call():
        calls.append(None)
        time.sleep(0.002 if len(calls) > 2 else 0.2)

    latency = measure_latency(call, "cpu", warmup=2, repeats=5)
    assert len(calls) == 7
    assert 2 <= latency.median_ms <= latency.p90_ms < 100
    assert (latency.device, latency.threads) == ("cpu", torch.get_num_threads())


def test_no_timed_call_is_refused():
    with pytest.raises(ValueError, match="repeats"):
        measure_latency(lambda: None, "cpu", repeats=0)
