import json

import numpy as np
import pytest
import torch

from slimctl.jobs.base.facts import Facts, Intake
from slimctl.jobs.base.keys import job_key
from slimctl.jobs.evaluation.features import open_features
from slimctl.jobs.kinds.import_features import ImportFeatures
from slimctl.jobs.kinds.load_dataset import LoadDataset
from slimctl.jobs.storage.tensors import image_batches, load_dataset_tensors
from slimctl.models.metrics.frechet import frechet_distance
from slimctl.models.metrics.gaussians import Gaussian
from slimctl.models.pixels import to_float

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def network(make_onnx):
    return make_onnx()


def test_a_network_is_copied_into_the_store(run_job, store, network):
    made = run_job(ImportFeatures(path=str(network)))
    assert (made.source, made.channels, made.size, made.dimensions) == ("onnx", 1, 4, 2)
    assert store.file(made, made.file).read_bytes() == network.read_bytes()
    network.unlink()  # nobody needs the path any more
    extract = open_features(store, made, torch.device("cpu"))
    images = torch.randint(0, 256, (7, 1, 4, 4), dtype=torch.uint8)
    x = to_float(images)
    expected = torch.stack([x.mean((1, 2, 3)), x.amax((1, 2, 3))], dim=1)
    torch.testing.assert_close(extract(images), expected)


def test_what_is_known_before_it_runs(network):
    spec = ImportFeatures(path=str(network))
    assert spec.expect({}) == Facts()
    assert spec.preflight() == Facts(intake=Intake(1, 4), dimensions=2)


def test_the_key_is_of_the_content(network, make_onnx, tmp_path):
    copy = tmp_path / "elsewhere.onnx"
    copy.write_bytes(network.read_bytes())
    keys = [job_key(ImportFeatures(path=str(path)), {}) for path in (network, copy)]
    assert keys[0] == keys[1]
    other = make_onnx(shape=("b", 3, 4, 4), name="other.onnx")
    assert job_key(ImportFeatures(path=str(other)), {}) != keys[0]


def test_a_missing_file_is_refused(refused):
    error = refused(ImportFeatures(path="nowhere.onnx"))
    assert error.field == "path"
    assert "'nowhere.onnx'" in error.what


def test_a_file_that_is_no_network(attempt, tmp_path):
    path = tmp_path / "bad.onnx"
    path.write_bytes(np.arange(100, dtype=np.uint8).tobytes())
    outcome = attempt(ImportFeatures(path=str(path)))
    assert outcome.failure == "UserError"
    assert "no ONNX file" in outcome.what


# A real network: CIFAR-10's


@pytest.fixture
def cifar(test_data):
    """The network, its published figures, and a function that reads a split of the images."""
    network, figures = test_data / "cifar10-features.onnx", test_data / "cifar10-features.json"
    if not network.exists():
        pytest.skip(f"{network} is not there")

    def images(split, count=None):
        source = str(test_data / "cifar10-jpeg")
        return LoadDataset(source=source, split=split, max_images=count, labels=False)

    return ImportFeatures(path=str(network)), json.loads(figures.read_text()), images


def test_a_real_network_is_read(run_job, store, cifar):
    spec, figures, images = cifar
    assert spec.preflight() == Facts(intake=Intake(3, 32), dimensions=figures["dimensions"])
    data, features = run_job(images("test", 20)), run_job(spec)
    session = onnxruntime.InferenceSession(spec.path)
    pixels, _ = load_dataset_tensors(store, data)
    (expected,) = session.run(None, {"images": pixels.numpy().astype(np.float32) / 127.5 - 1})
    made = open_features(store, features, torch.device("cpu"))(pixels)
    np.testing.assert_allclose(made.numpy(), expected, atol=1e-4)


@pytest.mark.slow
def test_a_real_network_gives_its_published_distances(run_job, store, cifar):
    spec, figures, images = cifar
    extract = open_features(store, run_job(spec), torch.device("cpu"))
    found = []
    for split in ("train", "test"):
        batches = image_batches(store, run_job(images(split)), 1000)
        found.append([extract(batch) for batch in batches])
    train, test = (Gaussian.from_features(torch.cat(rows)) for rows in found)
    first = Gaussian.from_features(torch.cat(found[0][:10]))
    published = figures["frechet"]
    assert frechet_distance(train, test) == pytest.approx(published["train_vs_test"], rel=1e-4)
    expected = published["train_vs_first_10000_train"]
    assert frechet_distance(train, first) == pytest.approx(expected, rel=1e-4)
