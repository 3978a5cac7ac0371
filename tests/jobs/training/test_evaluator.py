"""The evaluator against distances computed beside it."""

import pytest
import torch
from gloo import on_gloo

from slimctl.jobs.evaluation.features import Features, open_features
from slimctl.jobs.kinds.train_features import TrainFeatures
from slimctl.jobs.storage.tensors import load_part
from slimctl.jobs.training import evaluator as evaluator_module
from slimctl.jobs.training.evaluator import Evaluator
from slimctl.models.metrics.frechet import frechet_distance
from slimctl.models.metrics.gaussians import Gaussian
from slimctl.models.metrics.kernel import unbiased_mmd
from slimctl.models.pixels import to_uint8

CPU = torch.device("cpu")
SAMPLES = 40


class Shrink(torch.nn.Module):
    """One step of it halves the noise."""

    def forward(self, x, t, label):
        assert t.eq(0).all()
        return -0.5 * x


@pytest.fixture
def make(store, run_job, make_dataset):
    data = make_dataset(count=60, classes=2)
    network = {"kind": "classifier", "channels": 4, "channel_multipliers": [1], "features": 3}
    training = TrainFeatures(data="d", network=network, steps=2, batch_size=4, seed=0)
    features = run_job(training, data=data)

    def evaluator(measure="frechet", labels=None, rank=0, world=1):
        image = data.image.model_copy(update={"classes": 0})
        made = Evaluator(store, data, features, labels, (), image, 0.0, SAMPLES, 3, measure)
        made.prepare(CPU, rank, world)
        return made

    def both(evaluator, labels=None):
        """Features of the real images and of what was made."""
        extract = open_features(store, features, CPU)
        images, _ = load_part(store, data, labels, conditional=False)
        from slimctl.models.flows.flow import NetworkFlow

        made = evaluator._draw(NetworkFlow(Shrink(), evaluator.image, 0.0))
        assert made.std() == pytest.approx(0.5, abs=0.02)
        return extract(images), extract(to_uint8(made))

    return evaluator, both


@pytest.mark.parametrize("labels", [None, (1,)])
def test_distances_are_those_of_the_features(make, labels):
    evaluator, both = make
    frechet, kernel = evaluator("frechet", labels), evaluator("kernel", labels)
    real, made = both(kernel, labels)
    expected = frechet_distance(Gaussian.from_features(real), Gaussian.from_features(made))
    assert frechet(Shrink()) == pytest.approx(expected, rel=1e-6)
    assert kernel(Shrink()) == pytest.approx(unbiased_mmd(real, made), rel=1e-6)
    assert kernel(Shrink()) == kernel(Shrink())


def test_the_real_images_are_looked_at_once_for_all_attempts(make, monkeypatch):
    evaluator, _ = make
    seen, roots = [], []
    look, root = Features.__call__, torch.linalg.eigh
    monkeypatch.setattr(Features, "__call__", lambda *a: seen.append(len(a[1])) or look(*a))
    monkeypatch.setattr(torch.linalg, "eigh", lambda *a: roots.append(len(a[0])) or root(*a))
    scores = [evaluator()(Shrink()) for _ in range(3)]
    assert scores[0] == scores[1] == scores[2]
    assert seen == [60, SAMPLES, SAMPLES, SAMPLES]
    assert len(roots) == 4  # of the real images once, of the samples each time
    assert evaluator(labels=(1,))(Shrink()) != scores[0]


@pytest.mark.parametrize("measure", ["frechet", "kernel"])
def test_workers_share_the_samples(make, tmp_path, monkeypatch, measure):
    monkeypatch.setattr(evaluator_module, "BATCH", 7)
    evaluator, _ = make
    alone = evaluator(measure)(Shrink())
    images = []
    look = Features.__call__

    def score(rank):
        monkeypatch.setattr(Features, "__call__", lambda *a: images.append(len(a[1])) or look(*a))
        found = evaluator(measure, rank=rank, world=3)(Shrink())
        assert sum(images) == (14, 14, 12)[rank]  # 40 samples, 7 at a time, in turn
        assert found == (None if rank else pytest.approx(alone, rel=1e-6))

    assert on_gloo(tmp_path, score, world=3) == ["", "", ""]
