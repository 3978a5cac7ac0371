"""Numbers that must not change: loss curves in bfloat16 and float32."""

import pytest
import torch

from benchmarks.teacher import FlowOnImages, LoopSettings, drawn_images
from slimctl.jobs.storage.blobs import LocalBlobs
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import Share
from slimctl.models.engine import Engine
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=3, size=8)
STEPS = 90
BATCH = 32


def curve(seed, precision, folder):
    """Loss of each step; the seed decides the weights, noise and times are the same for all."""
    torch.manual_seed(seed)
    network = SongUNetSpec(channels=8, channel_multipliers=(1, 2), blocks=1).build(IMAGE)
    trainer = Trainer(
        LoopSettings(steps=STEPS, batch_size=BATCH, learning_rate=1e-3),
        network,
        FlowOnImages(drawn_images(512, IMAGE), IMAGE),
        Share(0, BATCH, BATCH, torch.device("cpu")),
        LocalBlobs(folder),
        lambda step, metrics: None,
        engine=Engine(precision=precision),
    )
    return torch.stack(list(trainer.steps()))


@pytest.mark.slow
def test_loss_curves_agree_within_the_seed_spread(tmp_path):
    full = torch.stack([curve(seed, "float32", tmp_path / f"f{seed}") for seed in range(3)])
    low = torch.stack([curve(seed, "bfloat16", tmp_path / f"b{seed}") for seed in range(3)])
    parts = [slice(first, first + 30) for first in range(0, STEPS, 30)]
    for part in parts:
        own, other = full[:, part].mean(dim=1), low[:, part].mean(dim=1)
        assert float((own - other).abs().max()) < float(own.std())
        assert float(own[0]) > 0
    assert float(full[:, parts[-1]].mean()) < 0.8 * float(full[:, parts[0]].mean())
