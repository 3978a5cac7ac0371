import pytest
import torch

from slimctl.jobs.base.errors import DamagedArtifact, UserError
from slimctl.jobs.pairs.shards import pair_labels, pair_noise, read_pairs
from slimctl.jobs.storage.store import Store
from slimctl.jobs.training import sources
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.sources import ImageSource, PairSource

CPU = torch.device("cpu")


@pytest.fixture
def pairs(make_pairs, make_analytic, make_dataset):
    return make_pairs(make_analytic(make_dataset(count=9, classes=3), conditional=True), count=10)


@pytest.mark.parametrize("cache", [0, 2**30], ids=["drawn again", "kept"])
def test_pairs_are_gathered_by_index(store, pairs, monkeypatch, cache):
    monkeypatch.setattr(sources, "CACHE_BYTES", cache)
    monkeypatch.setattr(sources, "CHUNK", 3)
    source = PairSource(store, pairs, CPU)
    index = torch.tensor([9, 0, 4, 4])
    x0, x1, label = source.batch(index)
    assert torch.equal(x0, pair_noise(pairs.seed, index, pairs.image))
    assert torch.equal(x1, read_pairs(store, pairs)[index].float())
    assert torch.equal(label, pair_labels(pairs.seed, index, pairs))
    assert (x0.dtype, x1.dtype, label.dtype) == (torch.float32, torch.float32, torch.int64)
    assert x0.shape == x1.shape == (4, 1, 4, 4)


def test_pairs_without_classes_have_no_labels(store, make_pairs, make_analytic, make_dataset):
    unlabelled = make_pairs(make_analytic(make_dataset()))
    assert PairSource(store, unlabelled, CPU).batch(torch.arange(2))[2] is None


def test_only_the_pairs_asked_for_are_there(store, pairs):
    source = PairSource(store, pairs, CPU)  # 10 of the 12 that the shards hold
    assert len(source.batch(torch.arange(10))[0]) == 10
    with pytest.raises(IndexError):
        source.batch(torch.tensor([10]))


def test_noise_of_another_generator_cannot_be_drawn_again(store, pairs):
    older = pairs.model_copy(update={"generator_version": 0})
    with pytest.raises(UserError, match="version 0 of the random numbers") as error:
        PairSource(store, older, CPU)
    assert error.value.where == pairs.id


def test_a_damaged_shard_is_not_trained_on(store, pairs):
    path = store.shard(pairs.shards[1])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedArtifact, match="shard-000001"):
        PairSource(Store(store.uri), pairs, CPU)


@pytest.mark.parametrize("labels", [None, (0, 2)])
def test_images_on_disk_give_the_same_batches(store, make_dataset, share, monkeypatch, labels):
    data, batches = make_dataset(count=9, classes=3), []
    for limit in (sources.CPU_BYTES, 10):
        monkeypatch.setattr(sources, "CPU_BYTES", limit)
        source, draws = (
            ImageSource(store, data, CPU, labels, conditional=True),
            Draws(1, share(), data.image),
        )
        batches.append([source.of_step(draws, step, flip=True) for step in (0, 1, 2, 7)])
    for kept, read in zip(*batches, strict=True):
        assert all(torch.equal(*both) for both in zip(kept, read, strict=True))
        assert read[0].is_contiguous()


def test_a_gpu_keeps_what_takes_half_of_its_free_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 2000))
    cuda = torch.device("cuda")
    assert sources.fits(500, cuda)
    assert not sources.fits(501, cuda)
