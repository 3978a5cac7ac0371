import pytest
import torch

from slimctl.jobs.base.artifacts import FeatureNet
from slimctl.jobs.evaluation import reference
from slimctl.jobs.evaluation.features import Features
from slimctl.jobs.evaluation.reference import measure_real
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.models import counter_random
from slimctl.models.counter_random import Stream
from slimctl.models.metrics.frechet import frechet_distance
from slimctl.models.metrics.gaussians import Gaussian
from slimctl.models.metrics.nearest import own_distance
from slimctl.models.pixels import to_float

NET = FeatureNet(id="net", dimensions=3)


@pytest.fixture
def counted():
    """A feature network of three numbers an image, and how many images it saw."""
    seen = []

    def extract(images):
        seen.append(len(images))
        x = images.float()
        return torch.stack((x.mean((1, 2, 3)), x.amax((1, 2, 3)), x[:, 0, 0, 0]), dim=1)

    return Features(extract, torch.device("cpu")), seen


@pytest.fixture
def real(store, make_dataset, counted, monkeypatch):
    monkeypatch.setattr(reference, "BATCH", 7)  # in pieces that do not divide 40
    data = make_dataset(count=40)
    return data, lambda kept=100: measure_real(store, data, NET, counted[0], 30, kept)


def close(a, b):
    torch.testing.assert_close(a.mean, b.mean)
    torch.testing.assert_close(a.covariance, b.covariance)


def test_pieces_give_what_the_whole_gives(store, real, counted):
    data, measure = real
    found = measure()
    images, _ = load_dataset_tensors(store, data)
    rows = counted[0](images)
    close(found.statistics, Gaussian.from_features(rows))
    index = counter_random.integers(0, Stream.SUBSET, torch.arange(100 * 30), 40).view(100, 30)
    floor = [
        frechet_distance(found.statistics, Gaussian.from_features(rows[draw])) for draw in index
    ]
    torch.testing.assert_close(found.floor, torch.tensor(floor, dtype=torch.float64))
    torch.testing.assert_close(found.features, rows[reference.random_subset(40, 40)])
    assert found.nearest_rms == own_distance(to_float(images))


def test_the_floor_is_the_expected_distance_of_a_draw(store, make_dataset):
    """Of one Gaussian feature of variance s^2: s^2 / n of the mean, s^2 / 2n of the deviation."""
    data = make_dataset(count=1000)
    numbers = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0)) * 3
    extract = Features(lambda images: numbers[: len(images)], torch.device("cpu"))
    net = FeatureNet(id="normal", dimensions=1)
    floor = measure_real(store, data, net, extract, 200, 10).floor
    expected = 1.5 * numbers.var().item() / 200
    assert len(floor) == 100
    assert abs(floor.mean().item() - expected) < 3 * floor.std().item() / 100**0.5


def test_the_floor_is_to_the_reference_that_is_asked_for(store, real, counted):
    data, measure = real
    own = measure()
    far = Gaussian(own.statistics.mean + 10, own.statistics.covariance)
    found = measure_real(store, data, NET, counted[0], 30, 100, far)
    assert found.floor.mean() == pytest.approx(300 + own.floor.mean().item(), rel=0.1)
    torch.testing.assert_close(measure().floor, own.floor)


def test_only_some_features_are_kept_drawn_from_all(store, real, counted):
    data, measure = real
    rows = counted[0](load_dataset_tensors(store, data)[0])
    chosen = reference.random_subset(40, 9)
    torch.testing.assert_close(measure(9).features, rows[chosen])
    assert int(chosen.max()) > 20


def test_the_second_evaluation_reads_what_the_first_found(real, counted, store):
    _, measure = real
    first = measure()
    seen = sum(counted[1])
    second = measure()
    assert sum(counted[1]) == seen == 40
    close(first.statistics, second.statistics)
    assert torch.equal(first.features, second.features)
    measure(9)
    assert sum(counted[1]) == 80, "another question has another answer"
    for name in store.blobs.names("cache"):
        store.blobs.write(name if name.startswith("cache") else f"cache/{name}", b"cut short")
    close(measure().statistics, first.statistics)
    assert sum(counted[1]) == 120, "a damaged cache is made again"


def test_few_of_many_images_are_searched_for_copies(store, make_dataset, monkeypatch):
    data = make_dataset(count=40)
    whole = reference.nearest_candidates(store, data)
    assert len(whole) == 40
    monkeypatch.setattr(reference, "NEAREST_AMONG", 11)
    index = reference.random_subset(40, 11).sort().values
    assert torch.equal(reference.nearest_candidates(store, data), whole[index])
