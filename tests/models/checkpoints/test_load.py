"""load_teacher: the reference implementations' numbers, other architectures, and every refusal."""

import os
import pickle

import pytest
import torch
from builders import network_inputs as inputs
from safetensors.torch import load_file, save_file

from slimctl.models.checkpoints import load_teacher, save_flow
from slimctl.models.flows.denoising import EDMFlow
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.networks import edm_weights
from slimctl.models.networks.adm.spec import ADMSpec
from slimctl.models.networks.song_unet import slimflow_weights
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.solvers.edm_heun import edm_heun
from slimctl.models.spec import ImageShape

GREY = ImageShape(channels=1, size=32)
NCSNPP = SongUNetSpec(channels=8, blocks=1)
CONDITIONAL = ImageShape(channels=3, size=8, classes=5)
ADM = ADMSpec(channels=16, channel_multipliers=(1, 4), blocks=1, attention_resolutions=(4,))
DDPMPP = SongUNetSpec(
    channels=8,
    channel_multipliers=(2, 2),
    blocks=1,
    attention_resolutions=(4,),
    time_scale=1.0,
    label_entry="features",
    augment=9,
)


@pytest.fixture
def ncsnpp(published, randomised, checkpoint_of):
    """An NCSN++, and a checkpoint of it as SlimFlow saves it."""
    network = randomised(NCSNPP.build(GREY))
    sources = slimflow_weights.sources(network)
    average = published(network, sources)
    model = published(randomised(NCSNPP.build(GREY), seed=1), sources)
    model = {f"module.{name}": value for name, value in model.items()}
    return network, checkpoint_of({"module.sigmas": torch.zeros(9), **model}, average)


@pytest.mark.parametrize("name", ["ncsnpp", "adm"])
def test_slimflow_velocity_is_the_references(test_data, name):
    case = test_data / "parity" / f"slimflow-{name}-tiny"
    flow, reference = load_teacher(case.with_suffix(".pth")), load_file(f"{case}.safetensors")
    velocity = flow.velocity(reference["x"], reference["t"], reference.get("label"))
    assert (velocity - reference["velocity"]).abs().max() < 1e-5
    assert (flow.image.size, flow.t_start) == (32, 1e-3)


def test_edm_denoiser_and_sampler_are_the_references(test_data):
    case = test_data / "parity" / "edm-ddpmpp-tiny"
    flow, reference = load_teacher(case.with_suffix(".pkl")), load_file(f"{case}.safetensors")
    denoised = flow.denoise(reference["x"], reference["sigma"])
    assert (denoised - reference["denoised"]).abs().max() < 1e-4
    heun18 = edm_heun(flow, reference["latents"]).x1
    assert (heun18 - reference["heun18"]).abs().max() < 1e-3
    assert flow.t_start == pytest.approx(1 / 81)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_averages_are_read_by_default_and_frozen(ncsnpp, save, legacy):
    network, checkpoint = ncsnpp
    path = save(checkpoint, _use_new_zipfile_serialization=not legacy)
    flow, (x, t, _) = load_teacher(path), inputs(GREY)
    assert isinstance(flow, NetworkFlow)
    assert torch.equal(flow.velocity(x, t), network(x, t))
    assert not flow.training
    assert not any(parameter.requires_grad for parameter in flow.parameters())
    plain = load_teacher(path, ema=False)
    assert not torch.allclose(plain.velocity(x, t), flow.velocity(x, t), atol=1e-2)


def test_the_flow_does_not_depend_on_the_file(ncsnpp, save):
    network, checkpoint = ncsnpp
    path = save(checkpoint)
    flow, (x, t, _) = load_teacher(path), inputs(GREY)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(flow.velocity(x, t), network(x, t))


def test_what_the_file_does_not_say_can_be_given(ncsnpp, save):
    path = save(ncsnpp[1])
    flow = load_teacher(path, size=64, t_start=0.0, dropout=0.1)
    assert (flow.image.size, flow.t_start) == (64, 0.0)
    assert flow.network.middle_in.dropout == 0.1
    assert load_teacher(path, attention_resolutions=(8,)).image.size == 16


def test_any_adm_of_slimflow(published, randomised, save, checkpoint_of):
    network = randomised(ADM.build(CONDITIONAL))
    state = published(network, edm_weights.sources(network, 8))
    flow = load_teacher(save(checkpoint_of(state, state)))
    assert flow.image == CONDITIONAL
    arguments = inputs(CONDITIONAL)
    assert torch.equal(flow.velocity(*arguments), network(*arguments))


def test_a_bare_state_has_no_averages(ncsnpp, save):
    path = save(ncsnpp[1]["model"])
    with pytest.raises(ValueError, match=r"no averaged weights under `ema`\n  fix: .*ema=False"):
        load_teacher(path)
    assert load_teacher(path, ema=False).image == GREY


@pytest.mark.parametrize("kind", ["song_unet", "adm"])
def test_any_snapshot_of_edm(kind, published, randomised, snapshot):
    spec = DDPMPP if kind == "song_unet" else ADM.model_copy(update={"time_scale": 1.0})
    name = "SongUNet" if kind == "song_unet" else "DhariwalUNet"
    network = randomised(spec.build(CONDITIONAL))
    path = snapshot(name, published(network, edm_weights.sources(network, 8)), sigma_data=0.7)
    flow = load_teacher(path)
    assert isinstance(flow, EDMFlow)
    assert (flow.image, flow.sigma_data) == (CONDITIONAL, 0.7)
    x, sigma, label = inputs(CONDITIONAL)
    expected = EDMFlow(network, CONDITIONAL, sigma_data=0.7).denoise(x, sigma, label)
    assert torch.equal(flow.denoise(x, sigma, label), expected)
    assert load_teacher(path, t_start=0.01).sigma_max == pytest.approx(99)
    for wrong in ({"ema": False}, {"t_start": 0.0}, {"size": 16}):
        with pytest.raises(ValueError, match="fix"):
            load_teacher(path, **wrong)


def test_other_snapshots_are_refused(snapshot, tmp_path):
    weights = {"layer.weight": torch.zeros(1)}
    for wrapper, name, message in [
        ("Precond", "SongUNet", "is preconditioned by Precond"),
        ("EDMPrecond", "DiT", "holds a network of class DiT"),
        ("EDMPrecond", "SongUNet", "no tensor that tells"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_teacher(snapshot(name, weights, wrapper))
    path = tmp_path / "list.pkl"
    path.write_bytes(pickle.dumps({"G_ema": [1]}))
    with pytest.raises(ValueError, match=r"list\.pkl: has no network under `ema`"):
        load_teacher(path)


def test_a_snapshot_that_would_call_the_shell_is_refused(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "forged.pkl"
    command = f"touch {trace}".encode()
    path.write_bytes(
        b"\x80\x02cposix\nsystem\nX" + len(command).to_bytes(4, "little") + command + b"\x85R."
    )
    with pytest.raises(ValueError, match=r"forged\.pkl: its pickle would use posix\.system"):
        load_teacher(path)
    assert not trace.exists()


def test_a_checkpoint_that_would_call_the_shell_is_refused(ncsnpp, save, tmp_path):
    class Harm:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'trace'}",)

    for legacy in (False, True):
        path = save(ncsnpp[1] | {"step": Harm()}, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(
            ValueError, match=r"its pickle would use posix\.system; nothing was run"
        ):
            load_teacher(path)
    assert not (tmp_path / "trace").exists()


def test_our_own_file_is_read_back(tmp_path, randomised):
    network = randomised(ADM.build(CONDITIONAL))
    path = tmp_path / "flow.safetensors"
    save_flow(NetworkFlow(network, CONDITIONAL, t_start=0.2), ADM, path)
    flow, arguments = load_teacher(path), inputs(CONDITIONAL)
    assert (flow.image, flow.t_start) == (CONDITIONAL, 0.2)
    assert torch.equal(flow.velocity(*arguments), network(*arguments))
    assert [entry.name for entry in tmp_path.iterdir()] == ["flow.safetensors"]
    network = randomised(DDPMPP.build(CONDITIONAL))
    edm = EDMFlow(network, CONDITIONAL, sigma_data=0.6, sigma_min=0.01, sigma_max=50.0)
    save_flow(edm, DDPMPP, path)
    flow = load_teacher(path)
    assert torch.equal(flow.denoise(*arguments), edm.denoise(*arguments))
    levels = (flow.sigma_data, flow.sigma_min, flow.sigma_max)
    assert levels == pytest.approx((0.6, 0.01, 50.0))
    with pytest.raises(ValueError, match="tensors differ"):
        load_teacher(path, blocks=2)


def test_safetensors_of_others_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="does not say what network its tensors are of"):
        load_teacher(path)
    save_file({"weight": torch.zeros(2)}, path, {"slimctl": '{"version": 2}'})
    with pytest.raises(ValueError, match="a way that this version does not know"):
        load_teacher(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match="no readable safetensors"):
        load_teacher(path)


def test_every_misfit_is_listed_by_its_published_name(ncsnpp, save):
    _, checkpoint = ncsnpp
    model = checkpoint["model"]
    del model["module.all_modules.3.Conv_0.weight"]
    model["module.all_modules.2.bias"] = torch.zeros(5)
    model["module.all_modules.77.weight"] = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="3 tensors differ") as caught:
        load_teacher(save(checkpoint))
    for line in (
        "checkpoint.pth: the checkpoint does not fit",
        "missing all_modules.3.Conv_0.weight (8, 8, 3, 3)",
        "misshapen all_modules.2.bias (5,), wanted (8,)",
        "unexpected all_modules.77.weight (2, 3)",
    ):
        assert line in str(caught.value)


def test_misshapen_averages_are_listed(ncsnpp, save):
    _, checkpoint = ncsnpp
    checkpoint["ema"]["shadow_params"][1] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"misshapen average of all_modules\.0\.bias \(3,\)"):
        load_teacher(save(checkpoint))
    assert load_teacher(save(checkpoint), ema=False).image == GREY


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"block": 3}, "which has no block\n  fix: use blocks"),
        ({"blocks": 0}, "blocks is 0: Input should be greater"),
        ({"size": -4}, "size is -4: images have at least 1 pixel"),
        ({"attention_resolutions": 16}, "attention_resolutions is 16: Input should be"),
        ({"blocks": 2}, r"tensors differ:\n  missing all_modules"),
        ({"channel_multipliers": (1,) * 9}, "at most 6 channel_multipliers"),
    ],
)
def test_impossible_overrides_are_refused(ncsnpp, save, given, message):
    with pytest.raises(ValueError, match=message):
        load_teacher(save(ncsnpp[1]), **given)


def test_a_wrong_path_names_the_nearest(ncsnpp, save, tmp_path):
    path = save(ncsnpp[1])
    with pytest.raises(FileNotFoundError, match=rf"no such file\n  fix: use {path}"):
        load_teacher(tmp_path / "chekpoint.pth")
    with pytest.raises(FileNotFoundError, match=rf"fix: use {tmp_path}"):
        load_teacher(tmp_path.with_name(tmp_path.name + "x") / "checkpoint.pth")
    with pytest.raises(FileNotFoundError, match=r"is a folder.*\n  fix: .*: checkpoint\.pth"):
        load_teacher(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is neither a checkpoint"),
        (b"GIF89a and more", "is neither a checkpoint"),
        (b"\x80\x04 damaged", "no readable snapshot"),
    ],
)
def test_other_files_say_what_they_are_not(tmp_path, content, message):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_teacher(path)


def test_damaged_and_foreign_checkpoints_are_refused(ncsnpp, save):
    path = save(ncsnpp[1])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match="fix"):
        load_teacher(path)
    for content, message in [
        ([1], "holds a list, not a checkpoint"),
        ({"weights": 3}, "no weights under `model`; it has weights"),
        (
            {"model": {"layer": torch.zeros(1)}},
            "its tensors are of; the first are layer",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            load_teacher(save(content))
