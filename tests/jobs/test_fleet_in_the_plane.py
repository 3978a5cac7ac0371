"""A whole fleet in the plane: conditional points, an analytic teacher, students of 1.3 k weights.

The students are so small that one of them cannot serve eight curves; four of them, each for two,
can. It runs in this process, in some minutes of one core.
"""

import math
from itertools import count

import pytest
import torch

from slimctl.jobs.base.artifacts import Dataset
from slimctl.jobs.evaluation.sampling import open_sampler
from slimctl.jobs.kinds.analytic_flow import AnalyticFlow
from slimctl.jobs.kinds.assemble_fleet import AssembleFleet
from slimctl.jobs.kinds.match_distribution import MatchDistribution
from slimctl.jobs.kinds.match_teacher import MatchTeacher
from slimctl.jobs.kinds.partition import SplitConditions
from slimctl.jobs.storage.tensors import load_dataset_tensors
from slimctl.models.metrics.sliced_wasserstein import sliced_wasserstein
from slimctl.models.pixels import to_float
from slimctl.models.spec import ImageShape

CPU = torch.device("cpu")
CLASSES, POINTS = 8, 256
PLANE = ImageShape(channels=2, size=1, classes=CLASSES)
SMALL = {"kind": "mlp", "width": 20, "layers": 2}
LARGE = {"kind": "mlp", "width": 64, "layers": 3}
BANDWIDTH = 0.03
SAMPLES = 20_000
SEEDS = 3
TRAINING = {"batch_size": 128, "warmup": 20, "decay": "cosine", "seed": 0, "shared": True}


def curve(label):
    """Points on a wave of its own place, turn and number of bends: uint8 (POINTS, 1, 1, 2)."""
    along = torch.linspace(-1.0, 1.0, POINTS)
    across = 0.35 * torch.sin((1 + label % 3) * math.pi * along)
    place, turn = 2 * math.pi * label / CLASSES, 2.4 * label
    x = 0.6 * math.cos(place) + 0.3 * (along * math.cos(turn) - across * math.sin(turn))
    y = 0.6 * math.sin(place) + 0.3 * (along * math.sin(turn) + across * math.cos(turn))
    pixels = torch.stack((x, y), dim=1) * 127.5 + 127.5
    return pixels.round().to(torch.uint8).view(POINTS, 1, 1, 2)


@pytest.fixture
def curves(commit):
    labels = torch.arange(CLASSES).repeat_interleave(POINTS)
    handle = Dataset(
        image=PLANE, count=len(labels), label_counts=(POINTS,) * CLASSES, flip_valid=False
    )
    images = torch.cat([curve(label) for label in range(CLASSES)])
    return commit(handle, "load_dataset-curves", data={"images": images, "labels": labels})


@pytest.fixture
def world(run_job, curves):
    """Data, teacher and a network of the teacher's kind of quality to start the fake ones from."""
    teacher = run_job(AnalyticFlow(data="d", conditional=True, bandwidth=BANDWIDTH), data=curves)
    spec = {"teacher": "t", "data": "d", "network": LARGE, "steps": 1000, "learning_rate": 3e-3}
    critic = run_job(MatchTeacher.model_validate(TRAINING | spec), teacher=teacher, data=curves)
    return {"teacher": teacher, "data": curves, "fake": critic}


STEPS = {"stage_0": 800, "matching": 900}


@pytest.fixture
def train(run_job, world):
    """`train(seed, part=.., partition=.., stage_0=..)` makes a student."""

    def student(seed, part=None, partition=None, stage_0=True):
        training = TRAINING | {"seed": seed}
        place = {} if partition is None else {"partition": "p", "part": part}
        inputs = {} if partition is None else {"partition": partition}
        names = {"teacher": "t", "data": "d"}
        start = {"network": SMALL}
        if stage_0:
            loop = {"network": SMALL, "steps": STEPS["stage_0"], "learning_rate": 3e-3}
            spec = training | names | place | loop
            data = {"teacher": world["teacher"], "data": world["data"]}
            flow = run_job(MatchTeacher.model_validate(spec), **data, **inputs)
            start, inputs = {"start": "s"}, inputs | {"start": flow}
        loop = {
            "fake": "f", "steps": STEPS["matching"], "learning_rate": 1e-3, "score_every": 100,
            "score_samples": 2000,
        }  # fmt: skip
        spec = training | names | place | start | loop
        return run_job(MatchDistribution.model_validate(spec), **world, **inputs)

    return student


@pytest.fixture
def distance(store, world):
    """Sliced Wasserstein distance of a model's samples to as many of the teacher's distribution."""

    def measure(model, seed=7):
        sampler = open_sampler(store, model, None, CPU)
        made = torch.cat([each.images for each in sampler.draw(seed, SAMPLES, SAMPLES)]).flatten(1)
        images, _ = load_dataset_tensors(store, world["data"])
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(images), (SAMPLES,), generator=generator)
        blur = BANDWIDTH * torch.randn(SAMPLES, 2, generator=generator)
        return sliced_wasserstein(made, to_float(images[chosen]).flatten(1) + blur)

    return measure


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_four_small_students_beat_one(run_job, curves, train, distance):
    """Means over training seeds: one seed's ratio varies by a tenth."""
    partition = run_job(SplitConditions(data="d", count=4), data=curves)
    found = {"K = 4": [], "K = 1": [], "K = 1 without stage 0": []}
    for seed in range(SEEDS):
        whole = train(seed)
        names = count()
        members = {f"students.{next(names)}": train(seed, part, partition) for part in range(4)}
        spec = AssembleFleet(partition="p", students=tuple(members))
        fleet = run_job(spec, partition=partition, **members)
        assert fleet.parameters == whole.parameters == 1282
        found["K = 4"].append(distance(fleet))
        found["K = 1"].append(distance(whole))
        found["K = 1 without stage 0"].append(distance(train(seed, stage_0=False)))
    print(found)
    mean = {name: sum(values) / SEEDS for name, values in found.items()}
    assert mean["K = 4"] < 0.9 * mean["K = 1"]
    assert mean["K = 1"] < mean["K = 1 without stage 0"]
