import pytest
import torch

from slimctl.jobs.base.errors import DamagedArtifact
from slimctl.jobs.pairs.shards import read_pairs, shard_rows
from slimctl.jobs.training import sources
from slimctl.jobs.training.sources import PairSource

CPU = torch.device("cpu")


@pytest.fixture
def pairs(make_dataset, make_analytic, make_pairs):
    return make_pairs(make_analytic(make_dataset()), count=11)


@pytest.mark.parametrize("index", [[0], [10, 0, 5, 5, 3], list(range(11))])
def test_rows_are_those_of_the_whole_set(store, pairs, index):
    index = torch.tensor(index, dtype=torch.int64)
    assert torch.equal(shard_rows(store, pairs).read(index), read_pairs(store, pairs)[index])


def test_a_shard_of_other_images_is_refused(store, pairs):
    image = pairs.image.model_copy(update={"size": 5})
    with pytest.raises(DamagedArtifact, match="other images"):
        shard_rows(store, pairs.model_copy(update={"image": image}))


def test_a_shard_that_shrank_is_refused(store, pairs):
    rows = shard_rows(store, pairs)
    path = store.shard(pairs.shards[0])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DamagedArtifact, match="ends before"):
        rows.read(torch.tensor([3]))


@pytest.mark.parametrize("ahead", [None, [4, 2], [1, 1]])
def test_a_set_on_disk_gives_the_same_batches(store, pairs, monkeypatch, ahead):
    """Whatever was read ahead, the right or the wrong pairs or none."""
    index = torch.tensor([4, 2])
    wanted = PairSource(store, pairs, CPU).batch(index)
    monkeypatch.setattr(sources, "CPU_BYTES", 10)
    source = PairSource(store, pairs, CPU)
    if ahead is not None:
        source.read_ahead(torch.tensor(ahead))
    for found, expected in zip(source.batch(index), wanted, strict=True):
        assert found is None if expected is None else torch.equal(found, expected)


@pytest.mark.parametrize(("count", "kept"), [(1_000_000, False), (50_000, True)])
def test_large_sets_stay_on_disk(pairs, count, kept):
    image = pairs.image.model_copy(update={"channels": 3, "size": 32})
    large = pairs.model_copy(update={"count": count, "image": image})
    assert sources.fits(sources.pair_bytes(large), CPU) is kept
