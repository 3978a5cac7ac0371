import numpy as np
import pytest
import torch

from slimctl.jobs.base.facts import FieldError
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.kinds.import_pairs import ImportPairs
from slimctl.jobs.training import sources
from slimctl.jobs.training.sources import PairSource
from slimctl.models.spec import ImageShape

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)


def write(folder, count=10, labels=None, **changes):
    """A folder of pairs as the published code writes it; labels are one-hot there."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        "z0": RNG.standard_normal((count, 1, 8, 8)).astype(np.float32),
        "z1": np.tanh(RNG.standard_normal((count, 1, 8, 8))).astype(np.float32),
    }
    if labels is not None:
        arrays["label"] = np.asarray(labels, np.float32)
    arrays |= changes
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return arrays


def spec(path, **changes):
    return ImportPairs(path=str(path), **{"shard_size": 4, **changes})


@pytest.mark.parametrize("in_memory", [0, 2**30], ids=["on disk", "in memory"])
def test_pairs_come_back_as_they_were_written(tmp_path, run_job, store, monkeypatch, in_memory):
    monkeypatch.setattr(sources, "CPU_BYTES", in_memory)
    written = write(tmp_path / "pairs", labels=np.eye(3)[RNG.integers(0, 3, 10)])
    asked = spec(tmp_path / "pairs", flip_valid=True)
    pairs = run_job(asked)
    assert (pairs.count, pairs.noise, len(pairs.shards)) == (10, "stored", 3)
    assert pairs.image == ImageShape(channels=1, size=8, classes=3)
    assert pairs.flip_valid
    assert sum(pairs.label_counts) == 10
    index = torch.tensor([9, 0, 4, 4])
    source = PairSource(store, pairs, CPU)
    source.read_ahead(index)
    x0, x1, label = source.batch(index)
    assert torch.equal(x0, torch.from_numpy(written["z0"])[index])
    assert torch.equal(x1, torch.from_numpy(written["z1"].astype(np.float16))[index].float())
    assert torch.equal(label, torch.from_numpy(written["label"]).argmax(1)[index])
    known = asked.preflight()
    assert (known.image, known.count, known.flip_valid) == (pairs.image, 10, True)


def test_a_folder_per_seed_is_joined_in_order(tmp_path, run_job, store):
    first, second = (write(tmp_path / "all" / seed, count) for seed, count in (("0", 3), ("1", 6)))
    pairs = run_job(spec(tmp_path / "all"))
    x0, _, label = PairSource(store, pairs, CPU).batch(torch.arange(9))
    assert np.array_equal(x0.numpy(), np.concatenate([first["z0"], second["z0"]]))
    assert label is None


@pytest.mark.parametrize(
    ("labels", "given", "counts"),
    [
        ([0, 2, 2, 1], None, (1, 1, 2)),
        ([[0], [2], [2], [1]], 5, (1, 1, 2, 0, 0)),
        ([0, 0, 0, 0], None, ()),
        ([0, 0, 0, 0], 2, (4, 0)),
    ],
)
def test_labels_of_either_form_are_counted(tmp_path, run_job, labels, given, counts):
    write(tmp_path, 4, labels)
    pairs = run_job(spec(tmp_path, classes=given))
    assert pairs.label_counts == counts
    assert pairs.image.classes == len(counts)
    assert run_job(spec(tmp_path, labels=False)).label_counts == ()


def test_students_train_on_them(tmp_path, run_job, make_model):
    write(tmp_path / "pairs", 12, np.eye(2)[RNG.integers(0, 2, 12)])
    pairs = run_job(spec(tmp_path / "pairs", flip_valid=True))
    network = {"kind": "song_unet", "channels": 4, "channel_multipliers": [1], "blocks": 1}
    common = {"pairs": "p", "network": network, "steps": 2, "batch_size": 4, "seed": 0}
    student = run_job(AnnealReflow.model_validate(common), pairs=pairs)
    assert (student.image, student.label_counts) == (pairs.image, pairs.label_counts)
    generator = run_job(Distill.model_validate(common | {"two_step_weight": 0}), pairs=pairs)
    assert generator.image == pairs.image


def bad(array, value):
    array = array.copy()
    array[7, 0, 2, 3] = value
    return array


NORMAL = RNG.standard_normal((20, 1, 8, 8)).astype(np.float32)
SMALL = np.tanh(RNG.standard_normal((20, 1, 8, 8))).astype(np.float32) * 0.5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z1": SMALL[:19]}, r"z0\.npy has shape \(20, 1, 8, 8\), z1\.npy \(19, 1, 8, 8\)"),
        ({"z0": bad(NORMAL, np.nan)}, r"z0\.npy: pair 7 has the value nan"),
        ({"z0": bad(NORMAL, np.inf)}, r"z0\.npy: pair 7 has the value inf"),
        ({"z1": bad(SMALL, 99)}, r"z1\.npy: pair 7 has the value 99"),
        ({"z0": NORMAL * 80}, r"z0\.npy: has the standard deviation \d\d\.\d, but noise has 1"),
        ({"z0": SMALL, "z1": NORMAL}, "fix: .*exchange them"),
        ({"z1": np.abs(SMALL)}, r"not in \[-1, 1\]\n  fix: store 2 \* images - 1"),
        ({"z1": (SMALL * 99).astype(np.uint8)}, "is uint8 of shape"),
        ({"z1": SMALL[:, 0]}, r"not floats \(N, C, H, W\)"),
        (
            {"label": np.arange(19)},
            r"label\.npy: is int64 of shape \(19,\), but there are 20 pairs",
        ),
        ({"label": np.full(20, -1)}, "pair 0 has the class -1, which is no whole number"),
        ({"label": np.full(20, 0.5)}, "pair 0 has the class 0.5"),
        ({"label": np.ones((20, 3))}, "row 0 is not one-hot"),
        ({"label": np.array(["cat"] * 20)}, r"label\.npy: is <U3 of shape"),
        ({"label": np.array([None] * 20)}, r"label\.npy: is no readable array"),
    ],
)
def test_arrays_that_are_not_as_described_are_refused(tmp_path, attempt, arrays, message):
    write(tmp_path, 20, z0=NORMAL, z1=SMALL)
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    with pytest.raises(Exception, match=message):
        spec(tmp_path).preflight()
    assert attempt(spec(tmp_path)).failure == "UserError"


def test_folders_that_do_not_go_together_are_refused(tmp_path):
    write(tmp_path / "0")
    write(tmp_path / "1", labels=np.eye(3)[RNG.integers(0, 3, 10)])
    with pytest.raises(Exception, match="all labelled or none"):
        spec(tmp_path).preflight()


def test_a_wrong_place_says_what_is_there(tmp_path, refused):
    (tmp_path / "stdout.log").touch()
    assert "it holds stdout.log" in refused(spec(tmp_path)).what
    assert "there is no such folder" in refused(spec(tmp_path / "nowhere")).what
    np.save(tmp_path / "z0.npy", np.zeros(3))
    assert "has no z1.npy" in refused(spec(tmp_path)).what
    assert refused(spec(tmp_path / "z0.npy")).what.endswith("is a file, not a folder")


@pytest.mark.parametrize(("labels", "given"), [(None, 3), ([0, 1, 2, 3], 3)])
def test_classes_that_do_not_fit_are_refused(tmp_path, labels, given):
    write(tmp_path, 4, labels)
    with pytest.raises(FieldError, match="classes is 3, but"):
        spec(tmp_path, classes=given).preflight()


def test_the_content_makes_the_key(tmp_path):
    write(tmp_path / "a")
    before = spec(tmp_path / "a").fingerprint()
    (tmp_path / "a").rename(tmp_path / "b")
    assert spec(tmp_path / "b").fingerprint() == before
    np.save(tmp_path / "b" / "label.npy", np.arange(10))
    assert spec(tmp_path / "b").fingerprint() != before
