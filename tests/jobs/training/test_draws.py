import pickle

import pytest
import torch

from slimctl.jobs.training.draws import BLOCK_STEPS, Draws, mirror
from slimctl.jobs.training.objective import Share
from slimctl.models import counter_random
from slimctl.models.counter_random import Stream
from slimctl.models.flows.spec import UniformTime, UShapedTime
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=2, size=3)
CPU = torch.device("cpu")
BATCH = 12


def draws(first=0, count=BATCH, batch=BATCH, seed=5):
    return Draws(seed, Share(first, count, batch, CPU), IMAGE)


DRAWS = {
    "samples": lambda d, step: d.samples(step, 31),
    "noise": lambda d, step: d.noise(step),
    "fresh noise": lambda d, step: d.noise(step, Stream.GUIDED_NOISE),
    "times": lambda d, step: d.times(step, UShapedTime()),
    "uniform": lambda d, step: d.uniform(step, Stream.GUIDED_TIME),
    "flips": lambda d, step: d.flips(step),
    "labels": lambda d, step: d.labels(step, Stream.GUIDED_LABEL, (3, 0, 5)),
}


@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("workers", [2, 3, 12])
def test_the_shares_of_all_workers_are_the_batch(kind, workers):
    draw = DRAWS[kind]
    size = BATCH // workers
    for step in (0, 1, 7, 1000):
        whole = draw(draws(), step)
        parts = [draw(draws(rank * size, size), step) for rank in range(workers)]
        assert torch.equal(torch.cat(parts), whole)
        assert len(whole) == BATCH


@pytest.mark.parametrize("kind", DRAWS)
def test_draws_depend_on_seed_and_step_only(kind):
    draw = DRAWS[kind]
    assert torch.equal(draw(draws(), 3), draw(draws(), 3))
    assert not torch.equal(draw(draws(), 3), draw(draws(), 4))
    assert not torch.equal(draw(draws(), 3), draw(draws(seed=6), 3))
    torch.manual_seed(1)
    first = draw(draws(), 3)
    torch.manual_seed(2)
    assert torch.equal(draw(draws(), 3), first)


def test_numbers_are_those_of_their_own_step_whatever_was_drawn_before():
    """Blocks of steps are drawn at once; a resumed training begins in the middle of one."""
    one, index = draws(), torch.arange(BATCH)
    for step in (3, 0, BLOCK_STEPS - 1, BLOCK_STEPS, 1000, 3):
        places = torch.arange(step * BATCH, (step + 1) * BATCH)
        assert torch.equal(one.samples(step, 31), counter_random.data_order(5, places, 31))
        assert torch.equal(one.samples(step, 30), counter_random.data_order(5, places, 30))
        uniform = counter_random.uniform(5, Stream.FLIP, index, (), step)
        assert torch.equal(one.uniform(step, Stream.FLIP), uniform)
        assert torch.equal(one.flips(step).flatten(), uniform < 0.5)
        label = counter_random.categorical(5, Stream.GUIDED_LABEL, index, (3, 0, 5), step)
        assert torch.equal(one.labels(step, Stream.GUIDED_LABEL, (3, 0, 5)), label)


def test_streams_are_unlike():
    one = draws()
    streams = (Stream.TIME, Stream.FLIP, Stream.GUIDED_TIME)
    assert len({tuple(one.uniform(0, stream).tolist()) for stream in streams}) == 3
    assert not torch.equal(one.noise(0), one.noise(0, Stream.GUIDED_NOISE))


@pytest.mark.parametrize("count", [1, 5, 12, 31])
def test_every_sample_comes_once_an_epoch(count):
    seen = torch.cat([draws().samples(step, count) for step in range(2 * count)])
    for epoch in torch.split(seen, count):
        assert epoch.sort().values.tolist() == list(range(count))[: len(epoch)]
    assert len(seen) == 2 * count * BATCH


def test_epochs_have_orders_of_their_own():
    seen = torch.cat([draws(batch=30, count=30).samples(step, 30) for step in range(3)])
    orders = {tuple(epoch.tolist()) for epoch in torch.split(seen, 30)}
    assert len(orders) == 3


def test_the_distributions():
    many = draws(count=20_000, batch=20_000)
    noise = many.noise(0)
    assert noise.shape == (20_000, 2, 3, 3)
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    times = many.times(0, UniformTime(low=0.25, high=0.5))
    assert 0.25 <= float(times.min()) < 0.251
    assert 0.499 < float(times.max()) <= 0.5
    share = float(many.flips(0).float().mean())
    assert abs(share - 0.5) < 4 * 0.5 / 20_000**0.5


def test_mirroring_is_per_sample():
    images = torch.arange(2.0 * 3 * 3).view(2, 1, 3, 3)
    flips = torch.tensor([True, False]).view(-1, 1, 1, 1)
    mirrored = mirror(images, flips)
    assert mirrored[0, 0, 0].tolist() == [2.0, 1.0, 0.0]
    assert torch.equal(mirrored[1], images[1])
    assert torch.equal(mirror(mirrored, flips), images)


@pytest.mark.parametrize(("other", "workers"), [(12, 3), (3, 3), (24, 2), (2, 2), (60, 12)])
def test_a_share_of_another_batch_is_the_same_part(other, workers):
    size = BATCH // workers
    shares = [Share(rank * size, size, BATCH, CPU).of(other) for rank in range(workers)]
    assert all(share.batch_size == other for share in shares)
    assert torch.cat([share.positions() for share in shares]).tolist() == list(range(other))
    assert len({share.count for share in shares}) == 1


def test_shares_travel():
    assert pickle.loads(pickle.dumps(Share(1, 2, 4, CPU))) == Share(1, 2, 4, CPU)
