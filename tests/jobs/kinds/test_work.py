"""The work of each kind, against sums by hand: presets make every size known exactly."""

import pytest

from slimctl.jobs.base.facts import Facts
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.kinds.match_distribution import MatchDistribution
from slimctl.jobs.kinds.train_features import TrainFeatures
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.models.networks.presets import PRESETS
from slimctl.models.perceptual.cost import INCEPTION_MACS
from slimctl.models.spec import ImageShape

TEACHER, STUDENT = PRESETS["cifar10-1rf-61.8m"], PRESETS["cifar10-15.7m"]
IMAGE = STUDENT.image
PAIRS = Facts(IMAGE, 1000)
SMALL = {"preset": STUDENT.name}


def flow(preset):
    return Facts(IMAGE, network=preset.network)


def test_training_costs_three_evaluations_a_sample():
    images = {"data": Facts(IMAGE, 50_000)}
    for spec, inputs in (
        (TrainFlow(data="d", network=SMALL, steps=10, batch_size=128), images),
        (AnnealReflow(pairs="p", network=SMALL, steps=10, batch_size=128), {"pairs": PAIRS}),
    ):
        work = spec.work(inputs)
        assert work.flop == 3 * 2 * STUDENT.macs * 10 * 128
        assert (work.parameters, work.macs) == (STUDENT.parameters, STUDENT.macs)
        assert spec.expect(inputs).network == STUDENT.network


def test_pairs_cost_an_evaluation_a_step():
    spec = GeneratePairs(flow="t", count=3000, solver={"kind": "heun", "steps": 9})
    work = spec.work({"flow": flow(TEACHER)})
    assert work.flop == 2 * TEACHER.macs * 18 * 3000
    assert work.assumed == ()
    adaptive = GeneratePairs(flow="t", count=3000, solver={"kind": "rk45", "tolerance": 1e-5})
    assert adaptive.work({"flow": flow(TEACHER)}).flop == 2 * TEACHER.macs * 127 * 3000
    assert "127 evaluations" in adaptive.work({"flow": flow(TEACHER)}).assumed[0]


def test_shards_are_made_whole():
    spec = GeneratePairs(flow="t", count=100, solver={"kind": "euler", "steps": 3})
    work = spec.work({"flow": flow(TEACHER)})
    assert work.flop == 2 * TEACHER.macs * 3 * 1000
    assert "1,000 pairs for 100" in work.assumed[0]
    fitting = spec.model_copy(update={"shard_size": 100}).work({"flow": flow(TEACHER)})
    assert (fitting.flop, fitting.assumed) == (2 * TEACHER.macs * 3 * 100, ())


@pytest.mark.parametrize("from_flow", [True, False])
def test_distilling_costs_the_student_twice_and_the_guide_once(from_flow):
    start = {"start": "s"} if from_flow else {"network": SMALL}
    spec = Distill(pairs="p", guide="g", steps=10, batch_size=128, two_step_batch=64, **start)
    inputs = {"pairs": PAIRS, "start": flow(STUDENT), "guide": flow(TEACHER)}
    work = spec.work(inputs if from_flow else {k: v for k, v in inputs.items() if k != "start"})
    assert work.flop == 6 * STUDENT.macs * 10 * (128 + 64) + 2 * TEACHER.macs * 10 * 64
    alone = spec.model_copy(update={"two_step_weight": 0.0})
    assert alone.work(inputs if from_flow else {"pairs": PAIRS}).flop == 6 * STUDENT.macs * 10 * 128
    unknown = spec.work({**inputs, "guide": Facts(IMAGE)} if from_flow else {"pairs": PAIRS})
    assert "guide is not counted" in unknown.assumed[0]


def test_lpips_costs_two_evaluations_and_one_gradient(lpips_files):
    distance = {"kind": "lpips", **lpips_files}
    spec = Distill(pairs="p", start="s", steps=10, two_step_weight=0, distance=distance)
    plain = spec.model_copy(update={"distance": Distill(pairs="p", start="s", steps=10,
        two_step_weight=0).distance})  # fmt: skip
    inputs = {"pairs": PAIRS, "start": flow(STUDENT)}
    more = spec.work(inputs).flop - plain.work(inputs).flop
    assert more == (4 + 2) * 1_252_786_176 * 1280


@pytest.mark.parametrize("pairs", [True, False])
def test_matching_distributions_costs_three_networks(pairs):
    """Per step: the student trained, teacher and fake network asked, and the fake one's updates."""
    fields = {"teacher": "t", "start": "s", "fake": "k", "data": "d", "steps": 10, "batch_size": 4}
    fields |= {"pairs": "p", "pair_batch": 2} if pairs else {}
    inputs = {"teacher": flow(TEACHER), "start": flow(STUDENT), "fake": flow(STUDENT)}
    inputs |= {"data": Facts(IMAGE, 100), "pairs": PAIRS}
    updates, trained = (1, 6) if pairs else (5, 4)
    student, fake, teacher = STUDENT.macs, STUDENT.macs, TEACHER.macs
    step = 6 * student * trained + 4 * (2 * teacher + 2 * fake)
    step += updates * 4 * (2 * student + 6 * fake)
    assert MatchDistribution.model_validate(fields).work(inputs).flop == 10 * step
    judged = MatchDistribution.model_validate(fields | {"adversarial": {}})
    assert judged.work(inputs).flop == 10 * (step + 4 * 4 * fake + updates * 4 * 6 * fake)
    unknown = judged.work(inputs | {"fake": Facts(IMAGE)})
    assert (unknown.flop, len(unknown.assumed)) == (10 * 6 * student * trained, 1)


@pytest.mark.parametrize(
    ("changes", "student", "teacher", "fake"),
    [
        ({"objective": {"kind": "sid"}}, 4, 2, 5),
        ({"objective": {"kind": "uid"}, "fake_updates": 3}, 6, 2, 11),
        ({"objective": {"kind": "f_distill"}, "adversarial": {}, "fake_updates": 1}, 4, 1, 9),
        ({"adversarial": {}, "adversarial_time": {"kind": "karras"}, "fake_updates": 1}, 4, 1, 12),
    ],
)
def test_objectives_cost_their_passes(changes, student, teacher, fake):
    """In forward passes a sample: a gradient in the inputs is one more, in the weights two."""
    fields = {"teacher": "t", "start": "s", "data": "d", "steps": 1, "batch_size": 1}
    inputs = {"teacher": flow(TEACHER), "start": flow(STUDENT)}
    work = MatchDistribution.model_validate(fields | changes).work(inputs)
    assert work.flop == 2 * (student * STUDENT.macs + (teacher + fake) * TEACHER.macs)


def test_measuring_costs_the_samples_and_all_features():
    spec = Evaluate(model="m", data="d", features="f", samples=100, draws=3)
    real = Facts(IMAGE, 500)
    known = {"model": flow(STUDENT), "data": real, "features": Facts(feature_macs=INCEPTION_MACS)}
    work = spec.work(known)
    assert work.flop == 2 * STUDENT.macs * 300 + 2 * INCEPTION_MACS * (300 + 500)
    assert work.assumed == ()
    unknown = spec.work({**known, "features": Facts()})
    assert unknown.flop == 2 * STUDENT.macs * 300
    assert unknown.assumed == ("the features of 'f' are not counted",)


def test_a_classifier_costs_its_features():
    spec = TrainFeatures(data="d", steps=10, batch_size=4)
    work = spec.work({"data": Facts(ImageShape(channels=1, size=8, classes=10))})
    assert work.flop == 6 * spec.network.size(ImageShape(channels=1, size=8, classes=10)).macs * 40


@pytest.mark.parametrize(
    ("spec", "inputs"),
    [
        (TrainFlow(data="d", network=SMALL, steps=1), {"data": Facts()}),
        (TrainFeatures(data="d", steps=1), {"data": Facts()}),
        (AnnealReflow(pairs="p", network=SMALL, steps=1), {"pairs": Facts()}),
        (GeneratePairs(flow="t", count=1), {"flow": Facts(IMAGE)}),
        (Evaluate(model="m", data="d", features="f"),
         {"model": Facts(IMAGE), "data": Facts(), "features": Facts()}),
        (Distill(pairs="p", start="s", guide="g", steps=1),
         {"pairs": PAIRS, "start": Facts(IMAGE), "guide": Facts(IMAGE)}),
    ],
)  # fmt: skip
def test_what_is_not_known_is_not_guessed(spec, inputs):
    assert spec.work(inputs) is None
