import pickle
from types import SimpleNamespace

import pytest
import torch
from gloo import on_gloo
from pydantic import ValidationError

from slimctl.jobs.base.artifacts import Generator
from slimctl.jobs.base.context import Handles
from slimctl.jobs.base.keys import content_of
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.objectives import distill
from slimctl.jobs.objectives.distill import Distillation
from slimctl.jobs.storage.flows import open_flow, open_network
from slimctl.jobs.training import final_errors
from slimctl.jobs.training.checkpoint import load_checkpoint
from slimctl.jobs.training.draws import Draws, mirror
from slimctl.jobs.training.final_errors import note_final_errors, noted_final_errors
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import WHOLE, Share
from slimctl.jobs.training.sources import PairSource
from slimctl.models import counter_random
from slimctl.models.counter_random import Stream
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.flows.spec import HuberDistance
from slimctl.models.losses import distance, one_step_error, one_step_velocity, two_step_error
from slimctl.models.metrics.interval import mean_interval
from slimctl.models.networks.registry import parse_network

CPU = torch.device("cpu")
SEED = 5
TIMES = (0.2, 0.8)


@pytest.fixture
def pairs(make_pairs, make_analytic, make_dataset):
    return make_pairs(make_analytic(make_dataset(count=6)), count=20)


@pytest.fixture
def labelled(make_pairs, make_analytic, make_dataset):
    data = make_dataset(count=9, classes=3)
    return make_pairs(make_analytic(data, conditional=True), count=20)


@pytest.fixture
def make(store):
    def objective(pairs, guide, **changes):
        fields = {
            "pairs": "pairs",
            "network": {"kind": "mlp", "width": 8},
            "guide": "guide" if guide else None,
            "steps": 1,
            "seed": SEED,
            "two_step_weight": 1.0 if guide else 0.0,
            "two_step_batch": 8,
            "two_step_times": TIMES,
            "flip": False,
        }
        inputs = {"pairs": pairs, "guide": guide}
        return Distillation(Distill(**fields | changes), Handles(store, "", inputs))

    return objective


@pytest.fixture
def expected(store, share):
    """Both terms as the paper writes them, from draws made here."""

    def terms(objective, student, step):
        spec, pairs = objective.spec, objective.handles.inputs["pairs"]
        fresh = share().of(spec.two_step_batch)
        draws = Draws(SEED, share(), pairs.image)
        x0, x1, label = PairSource(store, pairs, CPU).batch(draws.samples(step, pairs.count))
        if spec.flip:
            x0, x1 = (mirror(x, draws.flips(step)) for x in (x0, x1))
        guided = Draws(SEED, fresh, pairs.image)
        fresh_label = None
        if pairs.label_counts:
            index = torch.arange(spec.two_step_batch)
            counts = pairs.label_counts
            stream = Stream.GUIDED_LABEL
            fresh_label = counter_random.categorical(SEED, stream, index, counts, step)
        low, high = spec.two_step_times
        noise = guided.noise(step, Stream.GUIDED_NOISE)
        s = low + (high - low) * guided.uniform(step, Stream.GUIDED_TIME)
        both = None if label is None else torch.cat((label, fresh_label))
        flow = NetworkFlow(student, pairs.image)
        guide = open_flow(store, objective.handles.inputs["guide"], CPU)
        u = one_step_velocity(flow, torch.cat((x0, noise)), both)
        u, fresh_u = u[: len(x0)], u[len(x0) :]
        xs = noise + s[:, None, None, None] * fresh_u.detach()
        ahead = guide.velocity(xs, s, fresh_label)
        d = distance(spec.distance)
        return SimpleNamespace(
            pair=d(x0 + u, x1),
            two_step=d(noise + fresh_u, xs + (1 - s)[:, None, None, None] * ahead),
        )

    return terms


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"distance": HuberDistance()},
        {"distance": HuberDistance(c=0.5), "flip": True},
        {"two_step_batch": 4},
        {"two_step_batch": 24, "two_step_times": (0.4, 0.5)},
        {"pair_weight": 0.25, "two_step_weight": 3.0},
    ],
)
def test_the_loss_is_the_weighted_sum_of_both_terms(
    make, pairs, make_model, make_student, share, expected, changes
):
    objective = make(pairs, make_model(), **changes)
    objective.prepare(share())
    student = make_student()
    for step in (0, 7):
        loss = objective.loss(student, step)
        terms = expected(objective, make_student(), step)
        pair, two_step = terms.pair.mean(), terms.two_step.mean()
        wanted = objective.spec.pair_weight * pair + objective.spec.two_step_weight * two_step
        torch.testing.assert_close(loss, wanted)
        report = objective.report()
        torch.testing.assert_close(report["pair_loss"], pair.detach())
        torch.testing.assert_close(report["two_step_loss"], two_step.detach())
        assert not any(part.requires_grad for part in report.values())


def test_the_gradient_is_that_of_both_terms(make, pairs, make_model, make_student, share, expected):
    objective = make(pairs, make_model(), two_step_weight=0.5)
    objective.prepare(share())
    student, other = make_student(), make_student()
    objective.loss(student, 3).backward()
    terms = expected(objective, other, 3)
    (terms.pair.mean() + 0.5 * terms.two_step.mean()).backward()
    for mine, theirs in zip(student.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_no_gradient_reaches_the_guide(make, pairs, make_model, make_student, share):
    objective = make(pairs, make_model(dropout=0.5))
    objective.prepare(share())
    objective.loss(make_student(), 0).backward()
    guide = list(objective._guide.parameters())
    assert guide
    assert all(weight.grad is None and not weight.requires_grad for weight in guide)
    assert not any(module.training for module in objective._guide.network.modules())


def test_the_student_is_evaluated_once_at_pure_noise(make, pairs, make_model, make_student, share):
    objective = make(pairs, make_model(), two_step_batch=4)
    objective.prepare(share())
    student = make_student()
    objective.loss(student, 0)
    ((xt, t, label),) = student.calls
    assert len(xt) == 12
    assert t.tolist() == [0.0] * 12
    assert label is None


def test_labels_of_pairs_and_fresh_noise_reach_the_student(
    make, labelled, make_model, make_student, share, expected
):
    guide = make_model(label_counts=labelled.label_counts)
    objective = make(labelled, guide)
    objective.prepare(share())
    student = make_student(3)
    loss = objective.loss(student, 2)
    other = make_student(3)
    terms = expected(objective, other, 2)
    torch.testing.assert_close(loss, terms.pair.mean() + terms.two_step.mean())
    assert torch.equal(student.calls[0][2], other.calls[0][2])
    assert len(student.calls[0][2].unique()) > 1


@pytest.mark.parametrize("conditional", [False, True])
def test_either_term_alone(
    make, pairs, labelled, make_model, make_student, share, expected, conditional
):
    chosen = labelled if conditional else pairs
    classes = len(chosen.label_counts)
    guide = make_model(label_counts=chosen.label_counts)
    student = make_student(classes)
    terms = expected(make(chosen, guide), make_student(classes), 0)
    for fields, term, name, count in (
        ({"guide": guide, "pair_weight": 0.0}, terms.two_step, "two_step_loss", 8),
        ({"guide": None, "pair_weight": 1.0}, terms.pair, "pair_loss", 8),
    ):
        objective = make(chosen, fields["guide"], pair_weight=fields["pair_weight"])
        objective.prepare(share())
        torch.testing.assert_close(objective.loss(student, 0), term.mean())
        assert set(objective.report()) == {name}
        assert len(student.calls.pop()[0]) == count  # nothing is evaluated for nothing


def test_a_straight_guide_leaves_a_perfect_student_alone(
    store, make, make_pairs, make_analytic, make_dataset, share
):
    flow = make_analytic(make_dataset(count=1))
    pairs = make_pairs(flow)
    exact = open_flow(store, flow, CPU)
    objective = make(pairs, flow)
    objective.prepare(share())
    assert float(objective.loss(exact.velocity, 0)) < 1e-6
    assert float(objective.loss(lambda xt, t, _: 0 * xt, 0)) > 0.5


@pytest.mark.parametrize("two_step_batch", [4, 8, 16])
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_together_have_the_gradient_of_one(
    make, pairs, make_model, gradient, make_student, workers, two_step_batch
):
    objective = make(pairs, make_model(), flip=True, two_step_batch=two_step_batch)
    network = make_student()
    one, many = (gradient(objective, network, 2, n) for n in (1, workers))
    for alone, together in zip(one, many, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_fresh_noise_is_not_the_noise_of_pairs(make, pairs, make_model, make_student, share):
    objective = make(pairs, make_model())
    objective.prepare(share())
    student = make_student()
    for step in (0, 1):
        objective.loss(student, step)
    first, second = (xt for xt, _, _ in student.calls)
    assert not torch.equal(first[8:], second[8:])
    own = {tuple(image.flatten().tolist()) for image in first[:8]}
    assert own.isdisjoint(tuple(image.flatten().tolist()) for image in first[8:])


def test_objectives_travel(make, pairs, make_model, make_student, share):
    objective = make(pairs, make_model())
    other = pickle.loads(pickle.dumps(objective))
    losses = []
    for each in (objective, other):
        each.prepare(share())
        losses.append(each.loss(make_student(), 0))
    assert torch.equal(*losses)


@pytest.fixture
def measured(make, share, store):
    """What is noted of a student beside a guide."""

    def found(pairs, guide, student, rank=0, world=1):
        objective = make(pairs, guide)
        whole = share()
        count = whole.count // world
        objective.prepare(Share(rank * count, count, whole.batch_size, CPU))
        folder = store.work("distill-1")
        note_final_errors(objective.final_errors(lambda: student), folder)
        return noted_final_errors(folder)

    return found


def test_both_errors_are_of_the_first_pairs(
    store, monkeypatch, pairs, make_analytic, make_dataset, make_model, measured
):
    monkeypatch.setattr(distill, "BATCH", 3)
    good, bad = make_analytic(make_dataset(count=6)), make_model(seed=9)
    network = open_network(store, make_model(Generator), CPU)
    x0, x1, _ = PairSource(store, pairs, CPU).batch(torch.arange(20))
    own = one_step_error(NetworkFlow(network, pairs.image), x0, x1)
    guided = two_step_error(open_flow(store, bad, CPU), x0, x1, torch.full((20,), 0.5))
    found = measured(pairs, bad, network)
    assert found["student_one_step_error"] == pytest.approx(float(own.mean()), rel=1e-5)
    assert found["guide_two_step_error"] == pytest.approx(float(guided.mean()), rel=1e-5)
    assert found["guide_two_step_error_of"] == 20
    known = mean_interval(guided.double().tolist())
    half = (known.high - known.low) / 2
    assert found["guide_two_step_error_half"] == pytest.approx(half, rel=1e-5)
    assert measured(pairs, good, network)["guide_two_step_error"] < found["guide_two_step_error"]


def test_a_slow_check_ends_after_the_piece_in_which_its_time_is_up(
    monkeypatch, pairs, make_model, make_student, measured
):
    monkeypatch.setattr(distill, "BATCH", 3)
    monkeypatch.setattr(final_errors, "LIMIT_S", -1.0)
    assert measured(pairs, make_model(), make_student())["guide_two_step_error_of"] == 3


def test_workers_check_the_guide_together(
    store, tmp_path, monkeypatch, pairs, make_model, make_student, measured
):
    monkeypatch.setattr(distill, "BATCH", 3)
    guide, student = make_model(), make_student()
    alone = dict(measured(pairs, guide, student))
    evaluated = []
    student.register_forward_hook(lambda _, inputs, output: evaluated.append(len(output)))

    def check(rank):
        measured(pairs, guide, student, rank, world=2)
        assert sum(evaluated) == (11, 9)[rank]  # 20 pairs in pieces of 3, in turn

    assert on_gloo(tmp_path, check) == ["", ""]
    assert noted_final_errors(store.work("distill-1")) == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize("fresh", [8, 16])
def test_micro_batches_add_up(
    make, labelled, make_model, make_student, share, assert_parts_add_up, fresh
):
    guide = make_model(label_counts=labelled.label_counts)
    objective = make(labelled, guide, two_step_batch=fresh, two_step_weight=0.3, flip=True)
    objective.prepare(share())
    student = make_student(3)
    whole = float(objective.loss(student, 3).detach())
    wanted = {name: float(term) for name, term in objective.report().items()}
    assert_parts_add_up(lambda part: objective.loss(student, 3, part), [*student.parameters()])
    assert {n: float(v) for n, v in objective.report().items()} == pytest.approx(wanted, rel=1e-6)
    assert whole == pytest.approx(wanted["pair_loss"] + 0.3 * wanted["two_step_loss"])


CRITIC = {
    "network": {"channels": 4, "channel_multipliers": [1]}, "time": {"kind": "karras"},
    "augmentation": 0.4, "augmentation_ramp": 2,
}  # fmt: skip


@pytest.fixture
def judged(make, pairs, make_dataset, make_model):
    """An objective with a critic, not prepared."""

    def objective(guide=False, **changes):
        made = make(pairs, make_model() if guide else None, data="data", critic=CRITIC, **changes)
        made.handles.inputs["data"] = make_dataset(count=6)
        return made

    return objective


def test_a_critic_judges_what_is_made_of_fresh_noise(judged, make, pairs, make_student, share):
    objective, plain, student = judged(), make(pairs, None), make_student()
    for each in (objective, plain):
        each.prepare(share())
    loss, alone = objective.loss(student, 3), plain.loss(student, 3)
    deceived = objective.report()["image_deception_loss"]
    torch.testing.assert_close(loss, alone + 0.01 * deceived)
    x0 = Draws(SEED, share().of(8), pairs.image).noise(3, Stream.GUIDED_NOISE)
    x = x0 + student(x0, torch.zeros(len(x0)), None)
    torch.testing.assert_close(objective._term.deception(x, None, 3, WHOLE).detach(), deceived)


def test_real_images_enter_the_key_with_a_critic_only():
    fields = {"pairs": "p", "data": "d", "network": {"kind": "mlp"}, "steps": 1}
    plain, ids = Distill(**fields, two_step_weight=0), {"p": "pairs-1", "d": "data-1"}
    critic = Distill(**fields, two_step_weight=0, critic={})
    without, with_critic = (each.keyed(content_of(each, ids), ids) for each in (plain, critic))
    assert not {"data", "critic"} & set(without)
    assert with_critic["data"] == "data-1"
    with pytest.raises(ValidationError, match="critic learns from real images"):
        Distill(pairs="p", network={"kind": "mlp"}, steps=1, two_step_weight=0, critic={})


@pytest.fixture
def trained(judged, store, pairs):
    def run(name, rank=0, world=1, stop_at=None):
        objective = judged(
            guide=True, steps=4, batch_size=8, checkpoint_s=1e-9, learning_rate=1e-3,
            precision="float32",
        )  # fmt: skip
        torch.manual_seed(0)
        network = parse_network(objective.spec.network).build(pairs.image)
        part, steps = Share(rank * 8 // world, 8 // world, 8, CPU), objective.loss

        def loss(model, step, part):
            if step == stop_at:
                raise SystemExit
            return steps(model, step, part)

        objective.loss = loss
        folder = store.work(f"distill-{name}")
        Trainer(
            objective.spec, network, objective, part, folder, lambda *_: None, rank, world
        ).run()
        return load_checkpoint(folder).tensors

    return run


def test_a_critic_resumes_bit_for_bit_from_every_step(trained):
    whole = trained("whole")
    assert any(name.startswith("critic.adam.") for name in whole)
    for step in range(1, 4):
        with pytest.raises(SystemExit):
            trained(f"parts{step}", stop_at=step)
        parts = trained(f"parts{step}")
        assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def test_two_workers_train_a_critic_as_one_does(trained, tmp_path):
    alone = trained("alone")
    assert on_gloo(tmp_path, lambda rank: trained("both", rank=rank, world=2)) == ["", ""]
    together = trained("both")  # nothing is left to do: the checkpoint
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-5)
