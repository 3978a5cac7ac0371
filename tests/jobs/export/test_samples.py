import numpy as np
import pytest
import torch
from PIL import Image

from slimctl.jobs.base.artifacts import Generator
from slimctl.jobs.base.errors import DamagedArtifact, UserError
from slimctl.jobs.evaluation.sampling import open_sampler
from slimctl.jobs.export import samples
from slimctl.jobs.export.samples import write_samples
from slimctl.models.pixels import to_uint8
from slimctl.models.solvers.spec import EulerSpec

CPU = torch.device("cpu")


def write(store, model, path, **changes):
    nfe = None if isinstance(model, Generator) else 4
    write_samples(store, model.id, path, **{"count": 7, "seed": 3, "nfe": nfe} | changes)


def test_samples_of_a_flow_as_arrays(store, make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "BATCH", 3)
    model = make_model(label_counts=(2, 1))
    write(store, model, tmp_path / "deep" / "s.npz")
    arrays = np.load(tmp_path / "deep" / "s.npz")
    assert set(arrays) == {"images", "labels"}
    assert (arrays["images"].shape, arrays["images"].dtype) == ((7, 4, 4, 1), np.uint8)
    assert (arrays["labels"].shape, arrays["labels"].dtype) == ((7,), np.int64)
    sampler = open_sampler(store, model, EulerSpec(steps=4), CPU)
    (batch,) = sampler.draw(3, 7, 7)
    assert arrays["labels"].tolist() == batch.labels.tolist()
    expected = to_uint8(batch.images).permute(0, 2, 3, 1).numpy().astype(int)
    assert np.abs(arrays["images"].astype(int) - expected).max() <= 1


def test_samples_of_an_unconditional_generator(store, make_model, tmp_path):
    write(store, make_model(Generator), tmp_path / "s.npz")
    assert np.load(tmp_path / "s.npz")["labels"].tolist() == [-1] * 7


def test_a_generator_takes_no_number_of_steps(store, make_model, tmp_path):
    write(store, make_model(Generator), tmp_path / "s.npz", nfe=1)
    with pytest.raises(UserError, match="makes images in one step, not 5"):
        write(store, make_model(Generator), tmp_path / "s.npz", nfe=5)


def test_samples_of_one_class(store, make_model, tmp_path):
    write(store, make_model(Generator, label_counts=(2, 1)), tmp_path / "s.npz", label=1)
    assert np.load(tmp_path / "s.npz")["labels"].tolist() == [1] * 7


def test_the_same_seed_gives_the_same_file(store, make_model, tmp_path):
    model = make_model()
    images = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write(store, model, tmp_path / f"{name}.npz", seed=seed)
        images.append(np.load(tmp_path / f"{name}.npz")["images"])
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (9, 3), (150, 10)])
def test_samples_as_a_sheet(store, make_model, tmp_path, count, columns):
    write(store, make_model(Generator), tmp_path / "s.png", count=count)
    assert Image.open(tmp_path / "s.png").width == columns * 34 + 2


@pytest.mark.parametrize(
    ("counts", "label", "fix"),
    [
        ((2, 1), 2, "its classes are 0, 1"),
        ((2, 1), -1, "its classes are 0, 1"),
        ((2, 0, 1), 1, "its classes are 0, 2"),
        ((), 0, "unconditional"),
        ((), -1, "unconditional"),
    ],
)
def test_a_class_that_the_model_does_not_know(store, make_model, tmp_path, counts, label, fix):
    with pytest.raises(UserError, match=f"has no class {label}") as error:
        write(store, make_model(label_counts=counts), tmp_path / "s.npz", label=label)
    assert fix in error.value.fix
    assert not (tmp_path / "s.npz").exists()


@pytest.mark.parametrize("name", ["s.jpg", "s", "s.npz.gz", "s.NPZ"])
def test_a_file_of_another_kind(store, make_model, tmp_path, name):
    with pytest.raises(UserError, match=r"ends in neither \.npz nor \.png"):
        write(store, make_model(), tmp_path / name)


def test_what_is_no_model(store, make_dataset, tmp_path):
    with pytest.raises(UserError, match="is a Dataset, which has no samples"):
        write(store, make_dataset(), tmp_path / "s.npz")
    with pytest.raises(DamagedArtifact, match="submit its pipeline"):
        write_samples(store, "nothing", tmp_path / "s.npz", count=1, seed=0)
