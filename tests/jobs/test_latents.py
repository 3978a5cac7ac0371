"""Flows of latents through the jobs: what is looked at is decoded, what is learned is not."""

from dataclasses import replace
from types import SimpleNamespace

import builders
import numpy as np
import pytest
import torch

from slimctl.jobs.base.facts import Facts, FieldError
from slimctl.jobs.evaluation import quality, step_grid
from slimctl.jobs.export.samples import write_samples
from slimctl.jobs.export.ship import ship
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.kinds.encode_latents import EncodeLatents
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.jobs.kinds.fit_step_grid import FitStepGrid
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.kinds.import_autoencoder import ImportAutoencoder
from slimctl.jobs.kinds.import_teacher import ImportTeacher
from slimctl.jobs.kinds.match_distribution import MatchDistribution
from slimctl.jobs.kinds.match_teacher import MatchTeacher
from slimctl.jobs.kinds.train_autoencoder import TrainAutoencoder
from slimctl.jobs.kinds.train_features import TrainFeatures
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.pairs.latents import LatentActor, LatentRecipe, encode_shard
from slimctl.jobs.steps.episodes import flow_noises
from slimctl.jobs.storage.autoencoders import open_autoencoder
from slimctl.jobs.storage.flows import open_flow, open_network
from slimctl.jobs.storage.tensors import load_dataset_tensors, load_part, part_rows
from slimctl.models import onnx_export
from slimctl.models.checkpoints import load_generator, load_teacher
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.metrics.cost import count_macs, count_parameters
from slimctl.models.networks.autoencoder.spec import decoder_size
from slimctl.models.networks.registry import parse_network
from slimctl.models.pixels import to_float, to_uint8
from slimctl.models.sampling import Sampler
from slimctl.models.solvers.solution import Solution
from slimctl.models.solvers.spec import EulerSpec, GridSpec
from slimctl.models.spec import ImageShape
from slimctl.models.steps.spec import FlowProblem

diffusers = pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")
CPU = torch.device("cpu")
PIXELS = ImageShape(channels=3, size=16, classes=5)
SMALL = {"kind": "classifier", "channels": 4, "channel_multipliers": [1], "features": 3}
TINY = {
    "encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4),
    "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1), "latent_channels": 4,
}  # fmt: skip


@pytest.fixture
def real(run_job, make_dataset, monkeypatch):
    """Images of the size that latents decode to, and features of them."""
    monkeypatch.setattr(quality, "LATENCY_BUDGET_MS", 5.0)
    data = make_dataset(count=20, size=16, channels=3, classes=5)
    training = TrainFeatures(data="d", network=SMALL, steps=1, batch_size=4, seed=0)
    return {"data": data, "features": run_job(training, data=data)}


@pytest.fixture
def pairs(run_job, latent_teacher):
    asked = GeneratePairs(
        flow="f", count=8, shard_size=4, solver=EulerSpec(steps=2), seed=0, guidance=2.0
    )
    return run_job(asked, flow=latent_teacher)


@pytest.fixture
def student(run_job, pairs):
    asked = Distill(
        pairs="p", network=builders.NETWORK, two_step_weight=0.0, steps=1, batch_size=4, seed=0
    )
    return run_job(asked, pairs=pairs)


def save_tiny(folder, **changes):
    made = builders.drawn(diffusers.AutoencoderTiny(**TINY | changes))
    made.save_pretrained(folder)
    return folder


def evaluation(**changes):
    fields = {"model": "m", "data": "d", "features": "f", "samples": 10, "seed": 0}
    return Evaluate.model_validate(fields | {"solver": {"kind": "euler", "steps": 1}} | changes)


def test_what_is_made_is_decoded_by_whoever_looks_at_it(store, tmp_path, student, latent_teacher):
    assert student.autoencoder == latent_teacher.autoencoder
    assert student.facts().pixels == PIXELS
    write_samples(store, student.id, tmp_path / "x.npz", count=3, seed=5)
    flow = NetworkFlow(open_network(store, student, CPU), student.image)
    sampler = Sampler(flow, None, student.label_counts, CPU)
    index = torch.arange(3)
    latents, _ = sampler.follow(sampler.noise(5, index), sampler.labels(5, index))
    images = open_autoencoder(store, latent_teacher.autoencoder, CPU).decode(latents)
    found = np.load(tmp_path / "x.npz")["images"]
    assert np.array_equal(found, to_uint8(images).permute(0, 2, 3, 1).numpy())


def test_quality_is_that_of_pixels_and_decoding_has_costs_of_its_own(
    run_job, tmp_path, real, latent_teacher
):
    plain = run_job(evaluation(guidance=2.0), model=latent_teacher, **real)
    save_tiny(tmp_path / "tiny")
    tiny = run_job(ImportAutoencoder(path=str(tmp_path / "tiny"), size=16))
    other = run_job(evaluation(decoder="e"), model=latent_teacher, decoder=tiny, **real)
    vae = diffusers.AutoencoderKL(**builders.VAE)
    decoding = count_parameters(vae.decoder) + count_parameters(vae.post_quant_conv)
    assert plain.decoder_parameters == decoding
    assert plain.parameters == latent_teacher.parameters
    assert 0 < other.decoder_macs < plain.decoder_macs
    assert 0 < plain.decode_ms < plain.latency_ms


def test_the_plan_counts_decoding(latent_teacher, real):
    facts = {name: each.facts() for name, each in {"model": latent_teacher, **real}.items()}
    network, image = parse_network(latent_teacher.network), latent_teacher.image
    facts["model"] = replace(facts["model"], network=network)
    decoding = decoder_size(latent_teacher.autoencoder.space.autoencoder, image).macs
    assert evaluation().work(facts).flop == 2 * 10 * (count_macs(network, image) + decoding)


@pytest.mark.parametrize("to", ["safetensors", "diffusers"])
def test_an_export_makes_the_same_images(store, tmp_path, student, to):
    write_samples(store, student.id, tmp_path / "x.npz", count=3, seed=5)
    folder = tmp_path / "out"
    ship(store, student, folder, to, name="m", nfe=1, card=lambda _: "card")
    if to == "safetensors":
        found = load_generator(folder)(3, seed=5)
        again = load_teacher(folder)
        assert again.decode(torch.zeros(1, 4, 8, 8)).shape == (1, 3, 16, 16)
    else:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            folder, custom_pipeline=str(folder), trust_remote_code=True
        )
        found = pipeline(batch_size=3, seed=5, output_type="np").images
    assert np.array_equal(found, np.load(tmp_path / "x.npz")["images"])


@pytest.mark.slow
def test_onnx_has_the_decoder_as_a_part(store, tmp_path, student):
    onnxruntime = pytest.importorskip("onnxruntime")
    shipment = ship(store, student, tmp_path / "out", "onnx", name="m", nfe=1, card=str)
    assert set(shipment.checks) == {"model.onnx", "decoder.onnx"}
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "decoder.onnx"))
    latents = torch.randn(3, 4, 8, 8)
    wanted = open_autoencoder(store, student.autoencoder, CPU).decode(latents)
    found = session.run(None, {"latents": latents.numpy()})[0]
    assert np.abs(found - wanted.numpy()).max() < onnx_export.LARGEST_DIFFERENCE


def test_errors_of_latents_are_relative_to_their_scale(run_job, store, latent_teacher, monkeypatch):
    grid = GridSpec(times=(0.0,), weights=((1.0,),))
    monkeypatch.setattr(step_grid, "follow", lambda *_: None)
    monkeypatch.setattr(step_grid, "fit_grid", lambda *_: SimpleNamespace(solver=grid))

    def solved(solver, flow, x0, label):
        return Solution(3.0 * x0 + 0.3 * (solver is grid), torch.ones(len(x0), dtype=torch.int64))

    monkeypatch.setattr(step_grid, "solve", solved)
    made = run_job(FitStepGrid(flow="f", evaluations=5, seed=0), flow=latent_teacher)
    assert made.error_median == pytest.approx(0.3 / 3.0, rel=0.05)
    problem = FlowProblem(kind="flow", reference_tolerance=1e-2)
    noises = flow_noises(problem, latent_teacher, open_flow(store, latent_teacher, CPU), 0, 2)
    assert noises.unit == pytest.approx(float(noises.x1.double().square().mean().sqrt()))


def test_pairs_of_latents_are_made_again_within_their_scale(store, pairs, latent_teacher):
    asked = GeneratePairs(
        flow="f", count=8, shard_size=4, solver=EulerSpec(steps=2), seed=0, guidance=2.0
    )
    assert asked.recheck(store, pairs, {"f": latent_teacher}, 4) == []


def test_what_is_not_of_this_autoencoder_is_refused(refused, tmp_path, latent_teacher, real):
    facts = {name: each.facts() for name, each in real.items()}
    folder = str(save_tiny(tmp_path / "other", latent_channels=16))
    other = ImportAutoencoder(path=folder, size=16).preflight()
    asked = evaluation(decoder="e")
    wrong = refused(asked, **facts, model=latent_teacher.facts(), decoder=other)
    assert "'e' has 16 latent channels, but 4 are made" in wrong.what
    pixels = refused(asked, **facts, model=Facts(PIXELS, made="Flow"), decoder=other)
    assert "there is nothing to decode" in pixels.what
    broken = ImportTeacher(path=str(tmp_path / "dit"), autoencoder=folder)
    with pytest.raises(FieldError, match="an autoencoder of 16 latent channels"):
        broken.preflight()
    lpips = {"kind": "lpips", "weights": folder, "linear": folder}
    distance = Distill(
        pairs="p", network=builders.NETWORK, two_step_weight=0.0, steps=1, distance=lpips
    )
    assert "pixels, not latents" in refused(distance, pairs=latent_teacher.facts()).what


@pytest.fixture
def encoded(run_job, latent_teacher, real):
    asked = EncodeLatents(data="d", autoencoder="t", shard_size=8, batch_size=3)
    return run_job(asked, data=real["data"], autoencoder=latent_teacher)


def test_a_data_set_is_encoded_once_in_shards(store, run_job, encoded, latent_teacher, real):
    assert (encoded.count, len(encoded.shards), encoded.image.size) == (20, 3, 8)
    images, label = load_dataset_tensors(store, real["data"])
    wanted = open_autoencoder(store, latent_teacher.autoencoder, CPU).encode(to_float(images))
    found, labels = load_part(store, encoded, None, conditional=True)
    assert torch.allclose(found.float(), wanted, atol=1e-2)
    assert torch.equal(labels, label)
    rows = part_rows(store, encoded, (2, 3))
    assert torch.equal(rows.rows.read(rows.index), found[torch.isin(label, torch.tensor([2, 3]))])
    recipe = LatentRecipe(store, encoded.id, real["data"], latent_teacher.autoencoder, 8, 3)
    written = [store.blobs.read(file.path) for file in encoded.shards]
    actor = LatentActor(recipe, 1)
    store.blobs.delete(f"{recipe.name(1)}.json")  # an actor died before it wrote the record
    again = [actor._recipe.find(0), encode_shard(recipe, actor._opened(), 1, CPU, "cpu")]
    assert [record.file for record in again] == list(encoded.shards[:2])
    assert [store.blobs.read(file.path) for file in encoded.shards] == written


def test_latents_are_what_flows_of_latents_learn_from(run_job, encoded, latent_teacher, real):
    short = {"steps": 1, "batch_size": 4, "seed": 0}
    learned = run_job(
        TrainFlow(data="d", network=builders.NETWORK, conditional=True, **short), data=encoded
    )
    assert (learned.image, learned.autoencoder) == (latent_teacher.image, encoded.autoencoder)
    slim = {"slim_of": "t", "width": 0.5}
    asked = MatchTeacher.model_validate({"teacher": "t", "data": "d", "network": slim, **short})
    inputs = {"teacher": latent_teacher, "slim_of": latent_teacher}
    matched = run_job(asked, data=encoded, **inputs)
    assert matched.prediction == "noise"
    matching = MatchDistribution(
        teacher="t", start="s", data="d", adversarial={}, score_samples=4, fake_updates=1,
        **short | {"batch_size": 2},
    )  # fmt: skip
    student = run_job(matching, teacher=latent_teacher, start=matched, data=encoded)
    assert student.network["kind"] == "denoiser"
    assert student.autoencoder == latent_teacher.autoencoder


def test_pixels_where_latents_are_learned_are_refused(refused, latent_teacher, real, encoded):
    data, known = real["data"].facts(), latent_teacher.facts()
    asked = MatchTeacher(teacher="t", data="d", network=builders.NETWORK, steps=1)
    assert "are pixels, but 't' is of latents" in refused(asked, teacher=known, data=data).what
    other = replace(known, latents=replace(known.latents, weights="ab"))
    wrong = refused(asked, teacher=other, data=encoded.facts())
    assert "of another autoencoder than those of 't'" in wrong.what
    images = EncodeLatents(data="d", autoencoder="t")
    grey = Facts(ImageShape(channels=1, size=16), 20)
    assert "takes 3 channels" in refused(images, data=grey, autoencoder=known).what
    plain = Facts(PIXELS, made="Flow")
    assert "a flow of pixels" in refused(images, data=data, autoencoder=plain).what


def test_an_autoencoder_is_trained_and_its_latents_are_scaled(run_job, store, make_dataset):
    data = make_dataset(count=12, size=8, channels=1, classes=2)
    asked = TrainAutoencoder(
        data="d", image_channels=1, widths=(4, 8), latent_channels=2, steps=30, batch_size=6,
        learning_rate=1e-2, seed=0, ema_decay=0.5,
    )  # fmt: skip
    made = run_job(asked, data=data)
    latents = run_job(EncodeLatents(data="d", autoencoder="a"), data=data, autoencoder=made)
    assert latents.image == ImageShape(channels=2, size=4, classes=2)
    found, _ = load_part(store, latents, None, conditional=True)
    assert found.float().std(dim=(0, 2, 3)).tolist() == pytest.approx([1.0, 1.0], rel=0.02)
    assert found.float().mean(dim=(0, 2, 3)).tolist() == pytest.approx([0.0, 0.0], abs=0.02)
    images = to_float(load_dataset_tensors(store, data)[0])
    opened = open_autoencoder(store, made, CPU)
    error = (opened.decode(opened.encode(images)) - images).abs().mean()
    assert error < (images - images.mean()).abs().mean()  # better than one grey
    with pytest.raises(FieldError, match="takes 3 channels, the images have 1"):
        TrainAutoencoder(data="d", steps=1).expect({"data": data.facts()})
