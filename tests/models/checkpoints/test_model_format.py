"""One form of a model: what `export` and `save_flow` write is a generator and a teacher."""

import json

import pytest
import torch
from safetensors.torch import save_file

from slimctl.models.checkpoints import load_generator, load_teacher, save_flow
from slimctl.models.checkpoints.load import read_teacher
from slimctl.models.checkpoints.model_format import (
    Member,
    ModelDescription,
    ModelFolderError,
    write_model_folder,
)
from slimctl.models.checkpoints.paths import files_of
from slimctl.models.checkpoints.teacher import Overrides
from slimctl.models.flows.denoising import DiffusionFlow, EDMFlow, make_flow
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.flows.parameterisation import LinearVPSchedule, Parameterisation, VESchedule
from slimctl.models.networks.mlp.spec import MLPSpec
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.spec import EDMHeunSpec, EulerSpec, RK45Spec
from slimctl.models.spec import ImageShape

IMAGE = ImageShape(channels=2, size=4, classes=3)
SPEC = MLPSpec(width=8)
HOW = {
    "velocity": Parameterisation(t_start=0.125),
    "noise": Parameterisation(prediction="noise", schedule=VESchedule(), sigma_max=50.0),
    "edm": Parameterisation.model_validate({"prediction": "edm", "schedule": {"kind": "edm"}}),
}


def network(seed=0):
    torch.manual_seed(seed)
    return SPEC.build(IMAGE).eval()


def write(folder, *, how=None, fleet=False):
    files = (
        ("weights-0.safetensors", "weights-1.safetensors") if fleet else ("weights.safetensors",)
    )
    start = 0.0 if how is None else how.t_start
    known = ModelDescription(
        name="tiny",
        image=IMAGE,
        members=tuple(Member(network=SPEC, file=f, flow=how, t_start=start) for f in files),
        subsets=((0, 2), (1,)) if fleet else (),
        solver=None if how is None else EulerSpec(steps=3),
        label_counts=(1, 0, 2),
    )
    write_model_folder(folder, known, [network(seed).state_dict() for seed in range(len(files))])
    return folder


def equal(states, others):
    return states.keys() == others.keys() and all(
        torch.equal(value, others[name]) for name, value in states.items()
    )


@pytest.mark.parametrize("prediction", HOW)
def test_what_export_writes_is_a_teacher(tmp_path, prediction):
    how = HOW[prediction]
    flow, wanted = load_teacher(write(tmp_path / "m", how=how)), make_flow(network(), IMAGE, how)
    assert type(flow) is type(wanted)
    assert (flow.image, flow.t_start) == (IMAGE, wanted.t_start)
    assert equal(flow.network.state_dict(), wanted.network.state_dict())
    x, t, label = torch.randn(3, 2, 4, 4), torch.tensor([0.2, 0.5, 0.9]), torch.arange(3)
    assert torch.equal(flow.velocity(x, t, label), wanted.velocity(x, t, label))
    read = read_teacher(tmp_path / "m", Overrides())
    assert (read.label_counts, read.one_step) == ((1, 0, 2), False)


def test_a_one_step_generator_says_that_it_is_one(tmp_path):
    read = read_teacher(write(tmp_path / "m"), Overrides())
    assert read.one_step
    flow = read.flow()
    assert isinstance(flow, NetworkFlow)
    assert equal(flow.network.state_dict(), network().state_dict())


@pytest.mark.parametrize("prediction", HOW)
def test_what_save_flow_writes_is_a_generator_and_a_teacher(tmp_path, prediction):
    how, path = HOW[prediction], tmp_path / "flow.safetensors"
    flow = make_flow(network(), IMAGE, how)
    save_flow(flow, SPEC, path, how.schedule if prediction == "noise" else None)
    again = load_teacher(path)
    assert (type(again), again.t_start) == (type(flow), flow.t_start)
    assert equal(again.network.state_dict(), flow.network.state_dict())
    sampler = load_generator(path).sampler
    x0, label = sampler.noise(0, torch.arange(4)), sampler.labels(0, torch.arange(4))
    images, _ = sampler.generate(x0, label)
    solver = RK45Spec() if prediction == "velocity" else EDMHeunSpec()
    assert torch.equal(images, solve(solver, flow, x0, label).x1)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"t_start": 0.125}, NetworkFlow),
        ({"prediction": "edm", "schedule": {"kind": "edm"}, "t_start": 1 / 81}, EDMFlow),
        ({"prediction": "noise", "schedule": LinearVPSchedule().model_dump()}, DiffusionFlow),
    ],
)
def test_files_of_the_first_version_are_read(tmp_path, fields, kind):
    header = {
        "prediction": "velocity", "schedule": {"kind": "rectified"}, "sigma_data": 0.5,
        "sigma_min": None, "sigma_max": None, "t_start": 0.0, "version": 1,
        "image": IMAGE.model_dump(), "network": SPEC.model_dump(),
    } | fields  # fmt: skip
    path = tmp_path / "flow.safetensors"
    save_file(network().state_dict(), path, {"slimctl": json.dumps(header)})
    flow = load_teacher(path)
    assert isinstance(flow, kind)
    assert equal(flow.network.state_dict(), network().state_dict())
    assert load_generator(path)(2).shape == (2, 4, 4, 2)


def test_the_files_of_a_folder_are_those_that_are_read(tmp_path):
    folder = write(tmp_path / "m")
    (folder / "README.md").write_text("a card")
    assert {file.name for file in files_of(folder)} == {"model.json", "weights.safetensors"}


def test_what_cannot_be_one_teacher(tmp_path):
    with pytest.raises(ValueError, match="is a fleet of 2 networks, not one"):
        load_teacher(write(tmp_path / "fleet", how=HOW["velocity"], fleet=True))
    folder = write(tmp_path / "m")
    for given, message in (
        ({"ema": False}, "holds one set of weights only"),
        ({"variant": "fp16"}, "is one model, without variants"),
        ({"size": 8}, "images of 4 px, not 8"),
    ):
        with pytest.raises(ValueError, match=message):
            load_teacher(folder, **given)
    (folder / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="no readable safetensors"):
        load_teacher(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        load_teacher(folder)
    (folder / "model.json").write_text("{}")
    with pytest.raises(ModelFolderError, match="export the model again"):
        load_teacher(folder)


def test_a_file_without_a_description_is_no_generator(tmp_path):
    save_file(network().state_dict(), tmp_path / "bare.safetensors")
    with pytest.raises(ModelFolderError, match="no description in its header"):
        load_generator(tmp_path / "bare.safetensors")
