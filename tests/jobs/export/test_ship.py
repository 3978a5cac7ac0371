"""Models as folders that work without the store."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from slimctl.jobs.base.artifacts import Fleet, Flow, Generator
from slimctl.jobs.base.errors import JobFailed, UserError
from slimctl.jobs.export.samples import write_samples
from slimctl.jobs.export.ship import check_free, find_model, ship
from slimctl.models import onnx_export
from slimctl.models.checkpoints.model_format import ModelFolderError, load_generator
from slimctl.models.flows.parameterisation import (
    CosineVPSchedule,
    DiscreteVPSchedule,
    EDMSchedule,
    LinearVPSchedule,
    Parameterisation,
    VESchedule,
)

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


def write(store, model, folder, to="safetensors", **changes):
    fields = {"name": "m", "nfe": 3, "card": lambda shipment: "card"} | changes
    return ship(store, model, folder, to, **fields)


def drawn(store, model, tmp_path, **changes):
    """What `slimctl sample` draws."""
    path = tmp_path / "drawn.npz"
    nfe = 3 if isinstance(model, Flow) else None
    write_samples(store, model.id, path, **{"count": 5, "seed": 3, "nfe": nfe} | changes)
    return np.load(path)["images"]


@pytest.fixture
def fleet(make_model, commit):
    members = tuple(make_model(Generator, label_counts=(2, 1, 3), seed=seed) for seed in (0, 1))
    handle = Fleet(
        image=members[0].image, members=members, subsets=((0, 2), (1,)), partition="partition-x",
        label_counts=(2, 1, 3), parameters=10, parameters_total=20,
    )  # fmt: skip
    return commit(handle, "assemble_fleet-x")


@pytest.fixture(params=["generator", "conditional", "flow", "fleet"])
def model(request, make_model):
    if request.param == "fleet":
        return request.getfixturevalue("fleet")
    if request.param == "flow":
        return make_model(Flow, label_counts=(1, 1))
    return make_model(Generator, label_counts=(1, 2) if request.param == "conditional" else ())


@pytest.mark.parametrize("label", [None, 1])
def test_a_folder_draws_what_the_store_draws(store, model, tmp_path, label):
    label = label if model.image.classes else None
    write(store, model, tmp_path / "m")
    images = load_generator(tmp_path / "m")(5, seed=3, label=label)
    assert (images.dtype, images.shape) == (np.uint8, (5, 4, 4, 1))
    np.testing.assert_array_equal(images, drawn(store, model, tmp_path, label=label))
    more = load_generator(tmp_path / "m")(3, seed=3, first=2, label=label, batch_size=2)
    np.testing.assert_allclose(more.astype(int), images[2:].astype(int), atol=1)


def test_a_folder_needs_few_packages(store, make_model, tmp_path):
    """In a process where nothing else can be imported."""
    model = make_model(Generator)
    write(store, model, tmp_path / "m")
    allowed = {"torch", "numpy", "safetensors", "pydantic", "models"}
    program = f"""
import sys
from importlib.metadata import packages_distributions
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(name)
blocked = set("ray mlflow typer rich ruamel pyarrow PIL matplotlib sklearn scipy optuna pandas "
              "jobs orchestrator diffusers onnx onnxruntime torchmetrics numba".split())
assert not blocked & {allowed!r}
sys.meta_path.insert(0, Refuse())
from slimctl.models.checkpoints.model_format import load_generator
print(load_generator(sys.argv[1])(2, seed=1).sum())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "m")],
        check=True, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert int(done.stdout) == load_generator(tmp_path / "m")(2, seed=1).sum()


def test_what_cannot_be_drawn_is_refused(store, make_model, tmp_path):
    write(store, make_model(Generator, label_counts=(2, 0, 1)), tmp_path / "m")
    generator = load_generator(tmp_path / "m")
    with pytest.raises(ValueError, match="no class 1; the classes are 0, 2"):
        generator(2, label=1)
    with pytest.raises(ValueError, match="n is 0"):
        generator(0)


def test_onnx_computes_the_same(store, model, tmp_path):
    shipped = write(store, model, tmp_path / "m", "onnx")
    files = sorted(path.name for path in (tmp_path / "m").glob("*.onnx"))
    assert files == sorted(shipped.checks)
    assert len(files) == (2 if isinstance(model, Fleet) else 1)
    for check in shipped.checks.values():
        assert 0 <= check.largest_difference <= 1e-4
        assert min(check.latency_ms, check.torch_ms) > 0


def test_an_onnx_generator_draws_what_the_store_draws(store, make_model, tmp_path):
    model = make_model(Generator, label_counts=(1, 2))
    write(store, model, tmp_path / "m", "onnx")
    write(store, model, tmp_path / "s")
    sampler = load_generator(tmp_path / "s").sampler
    index = torch.arange(5)
    inputs = {"noise": sampler.noise(3, index), "label": sampler.labels(3, index)}
    session = onnxruntime.InferenceSession(str(tmp_path / "m" / "model.onnx"))
    (images,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    wanted, _ = sampler.generate(inputs["noise"], inputs["label"])
    np.testing.assert_allclose(images, wanted.numpy(), atol=1e-4)


SCHEDULES = {
    "edm": ("edm", EDMSchedule()),
    "vp": ("noise", LinearVPSchedule()),
    "cosine": ("v", CosineVPSchedule()),
    "table": ("noise", DiscreteVPSchedule(steps=50)),
    "ve": ("data", VESchedule()),
}


@pytest.mark.parametrize(
    "name",
    ["edm", "table", *(pytest.param(n, marks=pytest.mark.slow) for n in ("vp", "cosine", "ve"))],
)
def test_every_prediction_has_an_onnx_form(store, make_model, commit, tmp_path, name):
    prediction, schedule = SCHEDULES[name]
    plain = make_model(Flow)
    how = Parameterisation(prediction=prediction, schedule=schedule, sigma_max=50.0)
    fields = plain.model_dump() | how.model_dump() | {"id": "", "t_start": 1 / 51}
    weights = load_file(store.file(plain, plain.file))
    model = commit(Flow.model_validate(fields), "import_teacher-x", weights=weights)
    (check,) = write(store, model, tmp_path / "o", "onnx").checks.values()
    assert check.relative_difference <= 1e-4
    write(store, model, tmp_path / "m")
    images = load_generator(tmp_path / "m")(5, seed=3)
    np.testing.assert_array_equal(images, drawn(store, model, tmp_path))


def test_an_onnx_file_that_differs_is_not_left_behind(store, make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(JobFailed, match="onnxruntime and torch differ"):
        write(store, make_model(Generator), tmp_path / "m", "onnx")
    assert not list(tmp_path.glob("*m*"))


def test_diffusers_draws_what_the_store_draws(store, model, tmp_path):
    write(store, model, tmp_path / "m", "diffusers")
    folder = str(tmp_path / "m")
    pipeline = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=folder, trust_remote_code=True
    )
    images = pipeline(batch_size=5, seed=3, output_type="np").images
    np.testing.assert_array_equal(images, drawn(store, model, tmp_path))
    assert len(pipeline(batch_size=2).images) == 2
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    one, two = (pipeline(generator=g, output_type="pt", return_dict=False)[0] for g in generators)
    assert torch.equal(one, two)


def test_a_closed_form_has_no_weights(make_analytic, make_dataset, store):
    with pytest.raises(UserError, match="closed form of a data set"):
        find_model(store, make_analytic(make_dataset()).id)


def test_only_models_are_shipped(make_dataset, store):
    with pytest.raises(UserError, match="is a Dataset, no model"):
        find_model(store, make_dataset().id)


def test_nothing_is_written_over(tmp_path, monkeypatch):
    check_free(tmp_path / "new", replace=False)
    folder = tmp_path / "full"
    folder.mkdir()
    check_free(folder, replace=False)
    (folder / "x").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        check_free(folder, replace=False)
    with pytest.raises(UserError, match="something else than an exported model"):
        check_free(folder, replace=True)
    (folder / "model.json").write_text("{}")
    check_free(folder, replace=True)
    with pytest.raises(UserError, match="is a file"):
        check_free(folder / "x", replace=True)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(UserError, match="is a link"):
        check_free(tmp_path / "link", replace=True)
    (folder / "inside").mkdir()
    monkeypatch.chdir(folder / "inside")
    for place in (".", "..", folder):
        with pytest.raises(UserError, match="the folder that you are in"):
            check_free(Path(place), replace=True)


def test_a_folder_is_replaced_whole(store, make_model, tmp_path):
    write(store, make_model(Generator), tmp_path / "m")
    (tmp_path / "m" / "old").write_text("x")
    write(store, make_model(Generator), tmp_path / "m")
    files = list((tmp_path / "m").iterdir())
    assert {path.name for path in files} == {"README.md", "model.json", "weights.safetensors"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}
    assert [path.name for path in tmp_path.glob("*m*")] == ["m"]


def test_what_was_there_is_put_back(store, make_model, tmp_path, monkeypatch):
    write(store, make_model(Generator), tmp_path / "m")
    before = load_generator(tmp_path / "m")(2)
    real = Path.rename

    def fails(self, target):
        if Path(target).name == "m" and "-old" not in self.name:
            raise OSError("no")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="no"):
        write(store, make_model(Generator, seed=5), tmp_path / "m")
    monkeypatch.undo()
    np.testing.assert_array_equal(load_generator(tmp_path / "m")(2), before)


def test_a_folder_that_is_not_whole_is_refused(store, make_model, tmp_path):
    folder = tmp_path / "m"
    with pytest.raises(ModelFolderError, match=r"holds no model\.json"):
        load_generator(folder)
    write(store, make_model(Generator), folder)
    known = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(known | {"format": 2}))
    with pytest.raises(ModelFolderError, match="format"):
        load_generator(folder)
    for wrong in (
        {"generator_version": 99}, {"solver": {"kind": "euler", "steps": 3}},
        {"subsets": [[0], [1]]}, {"label_counts": [1, 2]}, {"members": known["members"] * 2},
    ):  # fmt: skip
        (folder / "model.json").write_text(json.dumps(known | wrong))
        with pytest.raises(ModelFolderError, match="export the model again"):
            load_generator(folder)
    known["members"][0]["network"]["channels"] = 8
    (folder / "model.json").write_text(json.dumps(known))
    with pytest.raises(ModelFolderError, match="does not fit the network"):
        load_generator(folder)
    (folder / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(ModelFolderError, match="cannot be read"):
        load_generator(folder)
    known["members"][0]["file"] = "../weights.safetensors"
    (folder / "model.json").write_text(json.dumps(known))
    with pytest.raises(ModelFolderError, match="file"):
        load_generator(folder)
