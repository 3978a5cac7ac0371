import hashlib

import numpy as np
import pytest
import torch

from slimctl.jobs.base.artifacts import FeatureNet, Flow, Generator, QualityReport
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.evaluation import draws, quality, reference
from slimctl.jobs.evaluation import features as features_module
from slimctl.jobs.evaluation.draws import Evaluation
from slimctl.jobs.evaluation.features import open_features
from slimctl.jobs.evaluation.quality import measure
from slimctl.jobs.evaluation.sampling import open_sampler
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.models.metrics import nearest, straightness
from slimctl.models.metrics.frechet import frechet_distance
from slimctl.models.metrics.gaussians import Gaussian
from slimctl.models.metrics.nearest import nearest_distance
from slimctl.models.networks.classifier.spec import ClassifierSpec
from slimctl.models.pixels import to_uint8
from slimctl.models.solvers.spec import EulerSpec, RK45Spec

CPU = torch.device("cpu")
EXACT = RK45Spec(tolerance=1e-3)


@pytest.fixture
def context(make_context):
    return make_context("evaluate-1")


@pytest.fixture
def make_features(commit):
    """Features of a random network: good enough to tell distributions apart."""

    def make(data):
        torch.manual_seed(0)
        spec = ClassifierSpec(channels=8, channel_multipliers=(1,), features=4)
        image = data.image.model_copy(update={"classes": 2})
        network = spec.build(image)
        handle = FeatureNet(
            image=image, network=spec.model_dump(mode="json"), dimensions=4, accuracy=1.0
        )
        return commit(handle, f"train_features-{data.id}", weights=network.state_dict())

    return make


def evaluation_of(context, spec, model, data, features):
    return Evaluation(
        context.store, context.artifact_id, spec, model, data, features, None, spec.solver
    )


@pytest.fixture
def evaluate(context, make_features, monkeypatch):
    monkeypatch.setattr(quality, "LATENCY_BUDGET_MS", 5.0)
    monkeypatch.setattr(straightness, "MEASURED", 16)

    def run(model, data, **changes):
        spec = Evaluate(model="m", data="d", features="f", seed=1, **changes)
        return measure(context, evaluation_of(context, spec, model, data, make_features(data)))

    return run


def test_features_are_of_whole_bytes_and_do_not_depend_on_the_batch(
    store, make_dataset, make_features, monkeypatch
):
    data = make_dataset(count=7)
    images, _ = load_dataset_tensors(store, data)
    extract = open_features(store, make_features(data), CPU)
    features = extract(images)
    torch.testing.assert_close(features, extract.extract(images))
    assert not features.requires_grad
    monkeypatch.setattr(features_module, "FEATURE_BATCH", 2)
    torch.testing.assert_close(extract(images), features)


def test_samples_of_the_closed_form_are_as_good_as_the_data(
    evaluate, make_dataset, make_analytic, context
):
    data = make_dataset(count=60)
    report = evaluate(make_analytic(data), data, solver=EXACT, samples=300)
    assert isinstance(report, QualityReport)
    assert 0 < report.fid < 3 * report.fid_real
    assert report.kid_low <= report.kid <= report.kid_high
    assert report.kid_low < 1e-3
    assert report.precision > 0.9
    assert report.nearest_rms < 0.01 < report.nearest_rms_real
    assert report.straightness >= 0
    assert (report.parameters, report.macs) == (0, 0)
    assert report.nfe > 10
    assert (context.folder / "samples.png").exists()


def test_noise_is_worse_than_the_data(evaluate, make_dataset, make_model):
    data = make_dataset(count=60)
    report = evaluate(make_model(Generator), data, samples=300)
    assert report.fid > 4 * report.fid_real
    assert report.straightness is None
    assert report.nearest_rms > 0.1


@pytest.mark.parametrize("cls", [Flow, Generator])
def test_a_report_is_complete(evaluate, make_dataset, make_model, recorder, cls):
    data = make_dataset(count=20, classes=2)
    model = make_model(cls, label_counts=(1, 1))
    solver = EulerSpec(steps=3) if cls is Flow else None
    report = evaluate(model, data, solver=solver, samples=30, batch_size=8)
    assert set(report.model_dump()) == set(QualityReport.model_fields)
    assert (report.model, report.model_type) == (model.id, cls.__name__)
    assert (report.reference, report.features) == (data.id, f"train_features-{data.id}")
    assert report.solver == ("euler 3" if cls is Flow else "one step")
    assert report.nfe == (3 if cls is Flow else 1)
    assert report.samples == 30
    assert report.parameters == model.parameters
    assert report.macs > 1000
    assert 0 < report.latency_ms <= report.latency_p90_ms
    assert report.latency_quiet is not None
    assert (report.device, report.threads) == ("cpu", 1)
    done = [(event["done"], event["total"]) for event in recorder.said("progress")]
    assert done == [(8, 30), (16, 30), (24, 30), (30, 30)]


def test_measuring_again_gives_the_same(evaluate, make_dataset, make_model):
    data = make_dataset(count=20)
    model = make_model(Generator)
    reports = [evaluate(model, data, samples=30) for _ in range(2)]
    latencies = {"latency_ms", "latency_p90_ms", "latency_quiet"}
    first, second = (report.model_dump(exclude=latencies) for report in reports)
    assert first == second


def test_the_floor_is_the_distance_of_draws_from_the_data(
    evaluate, store, make_dataset, make_model, make_features
):
    data = make_dataset(count=20)
    report = evaluate(make_model(Generator), data, samples=30)
    images, _ = load_dataset_tensors(store, data)
    real = open_features(store, make_features(data), CPU)(images)
    statistics = Gaussian.from_features(real)
    floors = []
    for seed in range(30):
        index = torch.randint(20, (30,), generator=torch.Generator().manual_seed(seed))
        floors.append(frechet_distance(statistics, Gaussian.from_features(real[index])))
    assert min(floors) / 2 < report.fid_real < 2 * max(floors)


def test_recall_is_of_the_whole_data_even_if_it_is_sorted():
    index = reference.random_subset(50, 10)
    assert len(index.unique()) == 10
    assert int(index.max()) > 25
    assert reference.random_subset(10, 10).sort().values.tolist() == list(range(10))


def test_samples_that_are_no_numbers_are_refused(evaluate, make_dataset, make_model, monkeypatch):
    data = make_dataset(count=20)
    monkeypatch.setattr("slimctl.models.sampling.one_step_image", lambda _f, x0, _l: x0 * torch.nan)
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        evaluate(make_model(Generator), data, samples=30)


# Several draws, and statistics of someone else


def test_the_lowest_of_several_draws_counts(evaluate, make_dataset, make_model, store):
    data = make_dataset(count=20)
    model = make_model(Generator)
    once = evaluate(model, data, samples=30)
    thrice = evaluate(model, data, samples=30, draws=3)
    assert once.fids == (once.fid,)
    assert len(set(thrice.fids)) == 3
    assert thrice.fids[0] == once.fid, "the first draw is the only one of a single draw"
    assert thrice.fid == min(thrice.fids)
    assert thrice.fid_mean == pytest.approx(sum(thrice.fids) / 3)
    assert (thrice.protocol.draws, thrice.protocol.samples, thrice.samples) == (3, 30, 30)
    assert thrice.protocol != once.protocol
    assert (thrice.kid, thrice.precision) == (once.kid, once.precision)


def test_later_draws_are_later_samples_of_the_seed(
    evaluate, make_dataset, make_model, store, make_features
):
    data = make_dataset(count=20)
    model = make_model(Generator)
    long = evaluate(model, data, samples=15, draws=2).fids
    sampler = open_sampler(store, model, None, CPU)
    images = torch.cat([batch.images for batch in sampler.draw(1, 30, 30)])
    extract = open_features(store, make_features(data), CPU)
    real = Gaussian.from_features(extract(load_dataset_tensors(store, data)[0]))
    for number, fid in enumerate(long):
        part = extract(to_uint8(images[15 * number :][:15]))
        expected = frechet_distance(real, Gaussian.from_features(part))
        assert fid == pytest.approx(expected, rel=1e-4)


def test_statistics_of_the_data_as_a_file_give_the_same_distance(
    evaluate, make_dataset, make_model, store, make_features, tmp_path
):
    data = make_dataset(count=20)
    model = make_model(Generator)
    extract = open_features(store, make_features(data), CPU)
    real = Gaussian.from_features(extract(load_dataset_tensors(store, data)[0]))
    file = tmp_path / "stats.npz"
    np.savez(file, mu=real.mean.numpy(), sigma=real.covariance.numpy())
    plain = evaluate(model, data, samples=30)
    against = evaluate(model, data, samples=30, reference=str(file))
    assert against.fid == pytest.approx(plain.fid, rel=1e-9)
    assert against.fid_real == pytest.approx(plain.fid_real, rel=1e-9)
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    assert against.protocol.reference == f"sha256:{sha}"
    assert plain.protocol.reference == plain.reference == data.id
    np.savez(file, mu=np.zeros(7), sigma=np.eye(7))
    with pytest.raises(UserError, match="7 features, the feature network makes 4"):
        evaluate(model, data, samples=30, reference=str(file))


def test_no_more_samples_are_kept_than_are_looked_at(
    evaluate, make_dataset, make_model, monkeypatch
):
    monkeypatch.setattr(draws, "NEAREST_SAMPLES", 7)
    held = []

    def count(a, b, own_index=None):
        held.extend([len(a)] if own_index is None else [])
        return nearest_distance(a, b, own_index)

    monkeypatch.setattr(nearest, "nearest_distance", count)
    report = evaluate(
        make_model(Generator), make_dataset(count=20), samples=64, batch_size=5, manifold_samples=9
    )
    assert held == [7]
    assert report.samples == 64


def test_metrics_on_request(evaluate, make_dataset, make_model):
    data, model = make_dataset(count=30), make_model(Generator)
    plain = evaluate(model, data, samples=60)
    asked = evaluate(model, data, samples=60, metrics=("fd_infinity", "density", "fid_kept"))
    assert plain.number("density") is None
    assert asked.number("density") >= 0
    assert 0 <= asked.number("coverage") <= 1
    assert asked.number("fid_kept") == asked.fid
    assert asked.number("fid_kept_low") < asked.fid < asked.number("fid_kept_high")
    assert asked.number("fd_infinity_low") < asked.number("fd_infinity_high")
    assert len(asked.fid_resamples) == 100
