from types import SimpleNamespace

import pytest
import torch

from slimctl.jobs.pairs.shards import pair_labels, pair_noise
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=2, size=3)


def test_noise_of_a_pair_depends_on_seed_and_index_only():
    index = torch.tensor([5, 0, 9])
    noise = pair_noise(3, index, IMAGE)
    assert noise.shape == (3, 2, 3, 3)
    assert noise.dtype == torch.float32
    for place, number in enumerate(index):
        assert torch.equal(pair_noise(3, number.view(1), IMAGE)[0], noise[place])
    assert not torch.equal(pair_noise(4, index, IMAGE), noise)


def test_noise_is_standard_normal():
    noise = pair_noise(0, torch.arange(5000), IMAGE)
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1.0) < 0.02


def test_labels_follow_the_marginal():
    flow = SimpleNamespace(prompts=None, label_counts=(1, 0, 3))
    label = pair_labels(0, torch.arange(8000), flow)
    shares = torch.bincount(label, minlength=3) / 8000
    assert shares.tolist() == pytest.approx([0.25, 0.0, 0.75], abs=0.02)
    assert torch.equal(pair_labels(0, torch.tensor([70, 2]), flow), label[[70, 2]])
    without = SimpleNamespace(prompts=None, label_counts=())
    assert pair_labels(0, torch.arange(3), without) is None
