"""Every objective, solver and sampler on a fake GPU; `test_fake_cuda.py` runs it, in a process.

A test counts what a step does and writes it to the file that FAKE_CUDA_COUNTS names. The networks
are small, but have the layers of large ones.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from builders import FLOW_PROBLEM
from fake_cuda import CUDA, fake_cuda, persuade

from slimctl.jobs.base.artifacts import FeatureNet, Fleet, Flow, Generator
from slimctl.jobs.base.context import Handles
from slimctl.jobs.evaluation.sampling import open_sampler
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.kinds.match_distribution import MatchDistribution
from slimctl.jobs.kinds.match_teacher import MatchTeacher
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.objectives.anneal_reflow import AnnealedReflow
from slimctl.jobs.objectives.distill import Distillation
from slimctl.jobs.objectives.match_distribution import DistributionMatching
from slimctl.jobs.objectives.match_teacher import TeacherMatching
from slimctl.jobs.objectives.train_flow import FlowMatching
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.training.draws import BLOCK_STEPS
from slimctl.jobs.training.evaluator import Evaluator
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import Share
from slimctl.jobs.training.perceptual import prepare_distance
from slimctl.models import counter_random, philox
from slimctl.models.engine import choose_engine
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.flows.parameterisation import CosineVPSchedule
from slimctl.models.metrics.frechet import frechet_distance, resampled_distances
from slimctl.models.metrics.gaussians import Factored, gaussian_of
from slimctl.models.metrics.kernel import unbiased_mmd
from slimctl.models.metrics.nearest import nearest_distance, own_distance
from slimctl.models.metrics.precision_recall import precision_recall
from slimctl.models.networks import fused_norm
from slimctl.models.networks.classifier.spec import ClassifierSpec
from slimctl.models.networks.registry import parse_network
from slimctl.models.solvers import fit_grid
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.runge_kutta import rk23
from slimctl.models.solvers.spec import EDMHeunSpec, EulerSpec, GridSpec, HeunSpec, RK45Spec
from slimctl.models.steps.flow_walk import solve_with_policy
from slimctl.models.steps.spec import FlowProblem

BATCH, SIZE, CLASSES = 8, 8, 2
NETWORK = {
    "kind": "song_unet", "channels": 8, "channel_multipliers": [1, 2], "blocks": 1,
    "attention_resolutions": [4],
}  # fmt: skip
STEPS = BLOCK_STEPS + 1

if reason := persuade():
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(autouse=True)
def _fused(monkeypatch):
    """As on a GPU with Triton; here the kernels' formulas take their place."""
    monkeypatch.setattr(fused_norm, "works", lambda device: True)
    monkeypatch.setattr(philox, "works", lambda device: True)


@pytest.fixture
def device():
    with fake_cuda() as fake:
        yield fake


def note(name, step):
    """Keeps the counts of a case for the table."""
    if path := os.environ.get("FAKE_CUDA_COUNTS"):
        file = Path(path)
        known = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(known | {name: step.totals()}))


@pytest.fixture
def data(make_dataset):
    return make_dataset(count=24, size=SIZE, channels=3, classes=CLASSES)


@pytest.fixture
def teacher(make_model, data):
    return make_model(size=SIZE, channels_of_image=3, label_counts=data.label_counts, **NETWORK)


@pytest.fixture
def pairs(make_pairs, make_analytic, data):
    return make_pairs(make_analytic(data, conditional=True), count=24)


@pytest.fixture
def inputs(data, teacher, pairs):
    return {"data": data, "teacher": teacher, "pairs": pairs}


def common(**changes):
    fields = {"network": NETWORK, "steps": STEPS, "batch_size": BATCH, "seed": 1, "warmup": 2}
    return fields | changes


MATCHING = common(teacher="teacher", data="data", score_samples=4, score_every=1000, fake_updates=2)
OBJECTIVES = {
    "train_flow": (FlowMatching, TrainFlow, common(data="data", conditional=True)),
    "anneal_reflow": (
        AnnealedReflow, AnnealReflow,
        common(pairs="pairs", annealing={"kind": "linear", "length": 1000}),
    ),
    "distill": (Distillation, Distill, common(pairs="pairs", two_step_weight=0)),
    "distill, huber and a guide": (
        Distillation, Distill, common(pairs="pairs", guide="teacher", distance={"kind": "huber"}),
    ),
    "match_teacher": (TeacherMatching, MatchTeacher, common(teacher="teacher", data="data")),
    "match_distribution": (DistributionMatching, MatchDistribution, MATCHING),
    "match_distribution, pairs and an adversary": (
        DistributionMatching, MatchDistribution,
        MATCHING | {"pairs": "pairs", "pair_weight": 0.5, "adversarial": {}},
    ),
}  # fmt: skip


def trained(device, store, objective, precision="auto"):
    """Counts of a steady step of an objective; the host must not wait in any of them."""
    spec, image = objective.spec, objective.handles.inputs["data"].image
    torch.manual_seed(0)
    network = parse_network(spec.network.model_dump()).build(image)
    share = Share(0, BATCH, BATCH, CUDA)
    engine = choose_engine(CUDA, "training", precision)
    folder = store.work("training-1")
    told = []
    trainer = Trainer(
        spec, network, objective, share, folder, lambda *each: told.append(each), engine=engine
    )
    steps = trainer.steps()
    next(steps)
    with device.count() as counted:
        loss = next(steps)
    trainer.step = BLOCK_STEPS - 1  # the next one draws single numbers for as many steps
    with device.count() as later:
        for loss in steps:
            assert loss.device == CUDA
    waits = [each for each in counted.waits + later.waits if "evaluator" not in each]
    assert waits == []
    assert (counted.copies + later.copies)["pageable"] == 0
    assert loss.isfinite()
    assert {weight.device for weight in trainer.network.parameters()} == {CUDA}
    return counted


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_step_of_training(device, store, inputs, name):
    cls, spec, fields = OBJECTIVES[name]
    spec = spec(**fields)
    note(name, trained(device, store, cls(spec, Handles(store, "training-1", inputs))))


def test_a_step_of_training_with_lpips(device, store, inputs, lpips_files, make_context):
    distance = {"kind": "lpips", "size": 16, **lpips_files}
    spec = Distill(**common(pairs="pairs", two_step_weight=0, distance=distance))
    prepare_distance(make_context("training-1"), spec.distance)
    objective = Distillation(spec, Handles(store, "training-1", inputs))
    note("distill, lpips", trained(device, store, objective))


@pytest.mark.parametrize("name", ["anneal_reflow", "train_flow"])
def test_a_step_of_training_from_disk(store, inputs, name):
    """One copy from pinned memory, which nobody waits for."""
    with fake_cuda(free=1000) as device:
        cls, spec, fields = OBJECTIVES[name]
        counted = trained(device, store, cls(spec(**fields), Handles(store, "training-1", inputs)))
    assert counted.sent == 1
    note(f"{name}, from disk", counted)


SOLVERS = {
    "euler": EulerSpec(steps=3),
    "heun": HeunSpec(steps=3),
    "rk45": RK45Spec(tolerance=1e-1),
    "rk45 per batch": RK45Spec(tolerance=1e-1, norm="batch"),
    "grid": GridSpec(times=(0.0, 0.5), weights=((0.5,), (0.4, 0.6))),
}


def drawn(device, sampler):
    with device.count() as counted:
        (samples,) = sampler.draw(3, BATCH, BATCH)
    assert samples.images.device == CUDA
    assert samples.images.isfinite().all()
    return counted


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver(device, store, teacher, name):
    sampler = open_sampler(store, teacher, SOLVERS[name], CUDA)
    note(f"solver {name}", drawn(device, sampler))


def test_edms_solver(device, store, teacher):
    how = {"prediction": "edm", "sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0}
    denoiser = teacher.model_copy(update=how | {"t_start": 1 / 81})
    sampler = open_sampler(store, denoiser, EDMHeunSpec(steps=3), CUDA)
    note("solver edm_heun", drawn(device, sampler))


@pytest.mark.parametrize("prediction", ["noise", "data", "v"])
def test_a_diffusion_model(device, store, teacher, prediction):
    how = {"prediction": prediction, "schedule": CosineVPSchedule()}
    model = teacher.model_copy(update=how)
    note(f"{prediction} model", drawn(device, open_sampler(store, model, EulerSpec(steps=2), CUDA)))


def noise_and_labels(device):
    index = torch.arange(BATCH, device=CUDA)
    return counter_random.normal(1, 2, index, (3, SIZE, SIZE)), index % CLASSES


def test_a_closed_form(device, store, data, make_analytic):
    flow = open_flow(store, make_analytic(data, conditional=True), CUDA)
    x0, label = noise_and_labels(device)
    with device.count() as counted:
        assert solve(EulerSpec(steps=2), flow, x0, label).x1.device == CUDA
    note("closed form", counted)


def test_rk23(device, store, teacher):
    flow = open_flow(store, teacher, CUDA)
    x0, label = noise_and_labels(device)
    with device.count() as counted:
        assert rk23(flow, x0, label, 1e-1).x1.device == CUDA
    note("solver rk23", counted)


def test_a_step_policy(device, store, teacher):
    problem = FlowProblem.model_validate(FLOW_PROBLEM)
    x0, label = noise_and_labels(device)
    with device.count() as counted:
        largest = lambda seen: (seen[:, 0] * 0 + 2).astype(int)  # noqa: E731
        solution = solve_with_policy(problem, largest, open_flow(store, teacher, CUDA), x0, label)
    assert solution.x1.device == CUDA
    note("solver step policy", counted)


def test_fitting_a_grid(device, store, teacher, monkeypatch):
    monkeypatch.setattr(fit_grid, "NODES", 3)
    flow = open_flow(store, teacher, CUDA)
    x0, label = noise_and_labels(device)
    exact = fit_grid.follow(flow, x0, label, 1e-1)
    with device.count() as counted:
        fit_grid.fit_rows(flow, exact, (0.0, 0.5))
    note("fit a grid of 2", counted)


def test_a_generator(device, store, make_model, data):
    handle = make_model(
        Generator, size=SIZE, channels_of_image=3, label_counts=data.label_counts, **NETWORK
    )
    note("generator", drawn(device, open_sampler(store, handle, None, CUDA)))


@pytest.mark.parametrize("cls", [Flow, Generator])
def test_a_fleet(device, store, make_model, data, cls):
    members = tuple(
        make_model(
            cls, size=SIZE, channels_of_image=3, label_counts=data.label_counts, seed=n, **NETWORK
        )
        for n in range(CLASSES)
    )
    fleet = Fleet(
        id="fleet-1", image=data.image, members=members, subsets=((0,), (1,)), partition="p",
        label_counts=data.label_counts, parameters=1, parameters_total=2,
    )  # fmt: skip
    solver = EulerSpec(steps=2) if cls is Flow else None
    note(f"fleet of {cls.__name__}s", drawn(device, open_sampler(store, fleet, solver, CUDA)))


@pytest.mark.parametrize("measure", ["pixels", "frechet", "kernel"])
def test_the_evaluator(device, store, data, teacher, commit, measure):
    features = None
    if measure != "pixels":
        spec = ClassifierSpec(channels=8, channel_multipliers=(1, 2), features=4)
        torch.manual_seed(0)
        handle = FeatureNet(image=data.image, network=spec.model_dump(), dimensions=4, accuracy=1.0)
        weights = spec.build(data.image).state_dict()
        features = commit(handle, "train_features-1", weights=weights)
    evaluator = Evaluator(
        store, data, features, None, data.label_counts, data.image, 0.0, BATCH, 3,
        "kernel" if measure == "kernel" else "frechet",
    )  # fmt: skip
    evaluator.prepare(CUDA)
    flow = open_flow(store, teacher, CUDA)
    assert isinstance(flow, NetworkFlow)
    with device.count() as counted:
        assert evaluator(flow.network) >= -1.0
    note(f"evaluator, {measure}", counted)


def test_random_numbers(device):
    index = torch.arange(BATCH, device=CUDA)
    with device.count() as counted:
        made = counter_random.normal(1, 2, index, (3, SIZE, SIZE))
    expected = counter_random.normal(1, 2, torch.arange(BATCH), (3, SIZE, SIZE))
    assert torch.equal(made.cpu(), expected)
    note("normal numbers", counted)


def test_a_tensor_of_the_host_is_noticed(device):
    with pytest.raises(RuntimeError, match="same device"):
        torch.zeros(3, device=CUDA) + torch.zeros(3)


def test_waits_are_noticed(device):
    x = torch.arange(4.0, device=CUDA)
    pinned = torch.zeros(4).pin_memory()
    with device.count() as counted:
        bool(x.sum() > 0)
        x[x > 1]
        x.cpu()
        torch.zeros(4).to(CUDA)
    assert len(counted.waits) == 4
    with device.count() as counted:
        pinned.to(CUDA, non_blocking=True)
        x.index_select(0, torch.zeros(1, dtype=torch.int64, device=CUDA))
    assert counted.waits == []
    assert counted.copies == {"to": 16}


def test_metrics_on_the_gpu_are_those_of_the_cpu():
    generator = torch.Generator().manual_seed(0)
    real, own = torch.randn(2, 60, 12, generator=generator).relu().unbind()
    images = torch.rand(2, 30, 1, 4, 4, generator=generator)
    draws = torch.randint(60, (3, 40), generator=generator)

    def found(place):
        a, b = real.to(place), own.to(place)
        return [
            frechet_distance(gaussian_of(a), gaussian_of(b)),
            frechet_distance(gaussian_of(a[:9]), Factored.of(gaussian_of(b))),
            *resampled_distances(a, draws).tolist(),
            *vars(precision_recall(a, b)).values(),
            unbiased_mmd(a, b),
            float(nearest_distance(images[0].to(place), images[1]).distance.cpu().mean()),
            own_distance(images[1], 5, device=place),
        ]

    expected = found("cpu")
    with fake_cuda():
        assert found("cuda") == pytest.approx(expected, rel=1e-6)
