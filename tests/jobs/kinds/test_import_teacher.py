import sys
from types import ModuleType
from typing import Literal

import builders
import pytest
import torch
from safetensors.torch import load_file, save_file

from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.kinds.import_teacher import ImportTeacher
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.pairs.shards import pair_noise, read_pairs
from slimctl.jobs.storage.autoencoders import open_autoencoder
from slimctl.jobs.storage.flows import open_flow
from slimctl.models.checkpoints import save_flow
from slimctl.models.flows.denoising import DiffusionFlow, EDMFlow, noise_levels
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.flows.parameterisation import LinearVPSchedule, Parameterisation
from slimctl.models.networks import registry
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.solvers.edm_heun import edm_heun
from slimctl.models.spec import ImageShape

CPU = torch.device("cpu")
SHAPE = ImageShape(channels=1, size=4, classes=3)
TINY = SongUNetSpec(channels=4, channel_multipliers=(1,), blocks=1, attention_resolutions=())
SMALL = {**TINY.model_dump(), "middle_attention": False}


def network(spec=TINY, image=SHAPE):
    torch.manual_seed(0)
    made = spec.build(image).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return made


def spec(path, **changes):
    return ImportTeacher(path=str(path), **changes)


FLOWS = {
    "velocity": lambda net: (NetworkFlow(net, SHAPE, 0.125), None),
    "edm": lambda net: (EDMFlow(net, SHAPE, sigma_data=0.4, sigma_max=50.0), None),
    "noise": lambda net: (
        DiffusionFlow(net, SHAPE, "noise", noise_levels(LinearVPSchedule()), 0.01, 60.0),
        LinearVPSchedule(),
    ),
}


@pytest.mark.parametrize("prediction", FLOWS)
def test_a_teacher_comes_out_as_it_went_in(tmp_path, run_job, store, prediction):
    flow, schedule = FLOWS[prediction](network())
    save_flow(flow, TINY, tmp_path / "flow.safetensors", schedule)
    asked = spec(tmp_path / "flow.safetensors", flip_valid=True, label_counts=(1, 0, 3))
    known = asked.preflight()
    teacher = run_job(asked)
    assert (teacher.prediction, teacher.image) == (prediction, SHAPE)
    assert (teacher.label_counts, teacher.flip_valid) == ((1, 0, 3), True)
    assert teacher.t_start == pytest.approx(flow.t_start)
    assert teacher.parameters == sum(weight.numel() for weight in network().parameters())
    assert (known.image, known.flip_valid, known.classes_seen) == (SHAPE, True, 2)
    assert known.flow.prediction == prediction
    opened = open_flow(store, teacher, CPU)
    x, t, label = torch.randn(3, 1, 4, 4), torch.tensor([0.1, 0.5, 0.9]), torch.arange(3)
    assert torch.allclose(opened.velocity(x, t, label), flow.velocity(x, t, label), atol=1e-5)


def test_what_export_wrote_comes_in_again(tmp_path, run_job, store, make_model):
    from slimctl.jobs.base.artifacts import Flow
    from slimctl.jobs.export.ship import describe, weights_of
    from slimctl.models.checkpoints.model_format import write_model_folder

    model = make_model(Flow, label_counts=(1, 2))
    weights = weights_of(store, model)
    write_model_folder(tmp_path / "m", describe(model, "tiny", 3), weights)
    asked = spec(tmp_path / "m")
    assert asked.preflight().image == model.image
    teacher = run_job(asked)
    assert (teacher.image, teacher.network) == (model.image, model.network)
    assert teacher.label_counts == (1, 2)
    again = load_file(store.file(teacher, teacher.file))
    assert all(torch.equal(value, again[name]) for name, value in weights[0].items())
    (tmp_path / "m" / "weights.safetensors").write_bytes(b"others")
    assert asked.fingerprint() != spec(tmp_path / "m" / "model.json").fingerprint()


def test_every_job_after_it_works_on_a_denoiser(tmp_path, run_job, store):
    flow = EDMFlow(network(), SHAPE)
    save_flow(flow, TINY, tmp_path / "flow.safetensors")
    teacher = run_job(spec(tmp_path / "flow.safetensors"))
    assert teacher.label_counts == (1, 1, 1)
    fields = {"flow": "t", "count": 6, "shard_size": 3, "seed": 5, "solver": {"kind": "edm_heun"}}
    pairs = run_job(GeneratePairs.model_validate(fields), flow=teacher)
    assert pairs.nfe == 35
    x0 = pair_noise(5, torch.arange(6), SHAPE)
    assert 0.8 < float(x0.std()) < 1.2  # what is stored has unit variance, not 80
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    alone = edm_heun(flow, x0[:3], labels[:3]).x1
    assert read_pairs(store, pairs).shape == (6, 1, 4, 4)
    assert alone.isfinite().all()
    common = {"pairs": "p", "steps": 2, "batch_size": 2, "seed": 0}
    student = AnnealReflow.model_validate(common | {"network": SMALL})
    assert run_job(student, pairs=pairs).image == SHAPE
    guided = Distill.model_validate(common | {"network": SMALL, "guide": "t"})
    assert run_job(guided, pairs=pairs, guide=teacher).image == SHAPE


def test_a_student_of_a_denoiser_begins_at_its_highest_level(tmp_path, run_job):
    save_flow(EDMFlow(network(), SHAPE), TINY, tmp_path / "flow.safetensors")
    teacher = run_job(spec(tmp_path / "flow.safetensors"))
    fields = {"flow": "t", "count": 2, "shard_size": 2, "solver": {"kind": "edm_heun", "steps": 2}}
    pairs = run_job(GeneratePairs.model_validate(fields | {"seed": 1}), flow=teacher)
    asked = Distill(pairs="p", start="t", steps=1, batch_size=2, two_step_weight=0, seed=0)
    student = run_job(asked, pairs=pairs, start=teacher)
    assert student.network["kind"] == "denoiser"
    assert (student.network["sigma"], student.network["flow"]["prediction"]) == (80.0, "edm")


@pytest.mark.parametrize("name", ["slimflow-ncsnpp-tiny.pth", "slimflow-adm-tiny.pth"])
def test_the_published_velocity_survives_the_store(test_data, run_job, store, name):
    path = test_data / "parity" / name
    teacher = run_job(spec(path))
    reference = load_file(path.with_suffix(".safetensors"))
    flow = open_flow(store, teacher, CPU)
    velocity = flow.velocity(reference["x"], reference["t"], reference.get("label"))
    assert (velocity - reference["velocity"]).abs().max() < 1e-4
    assert teacher.t_start == 1e-3


def test_edms_sampler_on_the_stored_teacher_is_the_references(test_data, run_job, store):
    from slimctl.models.solvers.base import solve
    from slimctl.models.solvers.spec import EDMHeunSpec

    path = test_data / "parity" / "edm-ddpmpp-tiny.pkl"
    flow = open_flow(store, run_job(spec(path)), CPU)
    reference = load_file(path.with_suffix(".safetensors"))
    denoised = flow.denoise(reference["x"], reference["sigma"])
    assert (denoised - reference["denoised"]).abs().max() < 1e-4
    solution = solve(EDMHeunSpec(), flow, reference["latents"])
    assert (solution.x1 - reference["heun18"]).abs().max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slimflow-ncsnpp-tiny.pth", "slimflow-adm-tiny.pth"])
def test_the_published_ode_ends_where_the_reference_does(test_data, name):
    from slimctl.models.checkpoints import load_teacher
    from slimctl.models.solvers.base import solve
    from slimctl.models.solvers.spec import RK45Spec

    path = test_data / "parity" / name
    flow, reference = load_teacher(path), load_file(path.with_suffix(".safetensors"))
    start = reference["ode_start"]
    label = reference["label"][: len(start)] if "label" in reference else None
    end = solve(RK45Spec(tolerance=1e-5, norm="batch"), flow, start, label).x1
    assert (end - reference["ode_end"]).abs().max() < 1e-3


class DenseSpec(NetworkSpec):
    """A family of another package."""

    kind: Literal["dense"] = "dense"
    width: int

    def check(self, image):
        if image.size > 64:
            raise ValueError("dense is for small images\n  fix: use another network")

    def build(self, image):
        return Dense(self.width, image)


class Dense(torch.nn.Module):
    def __init__(self, width, image):
        super().__init__()
        pixels = image.channels * image.size**2
        self.first = torch.nn.Linear(pixels + 1 + max(1, image.classes), width)
        self.last = torch.nn.Linear(width, pixels)
        # Not stored: it has to be there all the same after reading.
        self.register_buffer("rows", torch.eye(max(1, image.classes)), persistent=False)

    def forward(self, xt, t, label=None):
        row = self.rows[label] if label is not None else self.rows[:1].expand(len(xt), -1)
        features = torch.cat([xt.flatten(1), t[:, None], row], dim=1)
        return self.last(torch.tanh(self.first(features))).view_as(xt)


@pytest.fixture
def dense(monkeypatch):
    """The family, installed as a package would."""
    from importlib.metadata import EntryPoint

    module = ModuleType("other_package")
    module.DenseSpec = DenseSpec
    monkeypatch.setitem(sys.modules, "other_package", module)
    points = [EntryPoint("dense", "other_package:DenseSpec", "slimctl.networks")]
    monkeypatch.setattr(registry, "installed", lambda group: {p.name: p for p in points})
    registry.network_families.cache_clear()
    yield DenseSpec(width=6)
    registry.network_families.cache_clear()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_network_of_another_package_is_imported(dense, tmp_path, run_job, store, suffix):
    net, path = network(dense), tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"model": net.state_dict(), "step": 3}, path)
    else:
        save_file(net.state_dict(), path)
    described = {"size": 4, "image_channels": 1, "classes": 3, "network": dense.model_dump()}
    teacher = run_job(spec(path, **described))
    x, t, label = torch.randn(3, 1, 4, 4), torch.rand(3), torch.arange(3)
    flow = open_flow(store, teacher, CPU)
    assert torch.equal(flow.velocity(x, t, label), net(x, t, label))
    assert teacher.parameters == sum(weight.numel() for weight in net.parameters())
    noisy = {"prediction": "noise", "schedule": {"kind": "vp_cosine"}}
    assert run_job(spec(path, **described, **noisy)).prediction == "noise"
    for lacking in ("size", "image_channels", "network"):
        with pytest.raises(FieldError, match="does not say what network its tensors are of"):
            spec(path, **described | {lacking: None}).preflight()
    with pytest.raises(FieldError, match=r"tensors differ:\n  missing rows|misshapen first"):
        spec(path, **described | {"classes": 4}).preflight()


def test_a_network_of_another_package_is_trained(dense, run_job, make_dataset, store):
    data = make_dataset(count=8, classes=2)
    fields = {"data": "d", "network": {"kind": "dense", "width": 5}, "conditional": True}
    asked = TrainFlow.model_validate(fields | {"steps": 2, "batch_size": 4, "seed": 0})
    flow = run_job(asked, data=data)
    assert flow.network == {"kind": "dense", "width": 5}
    assert open_flow(store, flow, CPU).image.classes == 2
    pairs = GeneratePairs(flow="f", count=2, shard_size=2, solver={"kind": "rk45"}, seed=0)
    assert run_job(pairs, flow=flow).count == 2


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"size": 8}, "size", "images of 4 px, not 8"),
        ({"classes": 2}, "classes", "images of 3 classes, not 2"),
        ({"image_channels": 3}, "image_channels", "images of 1 channels, not 3"),
        ({"prediction": "noise"}, "prediction", "its prediction is velocity, not noise"),
        ({"ema": False}, "ema", "one set of weights only"),
        ({"label_counts": (1, 2)}, "label_counts", "has 2 counts that add up to 3, but"),
        ({"label_counts": (0, 0, 0)}, "label_counts", "has 3 counts that add up to 0, but"),
        ({"network": {"bloks": 3}}, "path", "which has no bloks"),
        ({"network": {"blocks": 3}}, "path", "44 tensors differ"),
        ({"network": {"kind": "adm", "channels": 8}}, "network", "kind song_unet, not adm"),
        ({"network": {"kind": "sonn_unet"}}, "path", "use 'song_unet'"),
    ],
)
def test_what_the_file_contradicts_is_reported_at_its_field(tmp_path, fields, field, message):
    save_flow(NetworkFlow(network(), SHAPE), TINY, tmp_path / "flow.safetensors")
    with pytest.raises(FieldError, match=message) as caught:
        spec(tmp_path / "flow.safetensors", **fields).preflight()
    assert caught.value.field == field


def test_a_wrong_path_names_the_nearest_before_anything_is_read(tmp_path, refused):
    (tmp_path / "teacher.pth").touch()
    error = refused(spec(tmp_path / "teecher.pth"))
    assert (error.field, error.fix) == ("path", f"use {tmp_path / 'teacher.pth'}")
    assert refused(spec(tmp_path)).fix == "give a file in it: teacher.pth"
    known = spec(tmp_path / "teacher.pth", flip_valid=True).expect({})
    assert known == Facts(flip_valid=True)
    with pytest.raises(FieldError, match="is neither a checkpoint"):
        spec(tmp_path / "teacher.pth").preflight()


def test_the_content_makes_the_key(tmp_path):
    path = tmp_path / "a.safetensors"
    save_flow(NetworkFlow(network(), SHAPE), TINY, path)
    before = spec(path).fingerprint()
    assert spec(path.rename(tmp_path / "b.safetensors")).fingerprint() == before
    save_flow(NetworkFlow(network(), SHAPE, 0.5), TINY, path)
    assert spec(path).fingerprint() != before
    assert Parameterisation(**spec(path).preflight().flow.model_dump()).t_start == 0.5


def test_a_pipeline_of_latents_comes_in_with_its_autoencoder(tmp_path, run_job, store):
    diffusers = pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
    from slimctl.models.checkpoints import load_teacher

    builders.save_dit(diffusers, tmp_path / "dit")
    asked = spec(tmp_path / "dit")
    assert asked.preflight().pixels == ImageShape(channels=3, size=16, classes=5)
    teacher, flow = run_job(asked), load_teacher(tmp_path / "dit")
    assert (teacher.null_class, teacher.image, teacher.label_counts) == (5, flow.image, (1,) * 5)
    opened = open_flow(store, teacher, CPU)
    x, t, label = torch.randn(2, 4, 8, 8), torch.tensor([0.1, 0.9]), torch.tensor([1, 5])
    assert torch.equal(opened.velocity(x, t, label), flow.velocity(x, t, label))
    kept = open_autoencoder(store, teacher.autoencoder, CPU)
    assert torch.equal(kept.decode(x), flow.decode(x))
    with pytest.raises(FieldError, match="a mirrored latent is not that of the mirrored image"):
        spec(tmp_path / "dit", flip_valid=True).preflight()


def test_latents_enter_the_key_by_their_autoencoder(tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
    builders.save_dit(diffusers, tmp_path / "dit")
    before = spec(tmp_path / "dit").fingerprint()
    file = tmp_path / "dit" / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    assert spec(tmp_path / "dit").fingerprint() != before
