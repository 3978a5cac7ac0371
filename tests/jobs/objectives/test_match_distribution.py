import pickle

import pytest
import torch
from gloo import on_gloo
from pydantic import ValidationError
from torch import nn

from slimctl.jobs.base.artifacts import Partition
from slimctl.jobs.base.context import Handles, SilentReporter
from slimctl.jobs.base.facts import Facts, FieldErrors
from slimctl.jobs.base.keys import content_of, derive_seed
from slimctl.jobs.kinds.match_distribution import MatchDistribution
from slimctl.jobs.objectives.match_distribution import DistributionMatching
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.training.checkpoint import load_checkpoint
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import WHOLE, Share
from slimctl.jobs.training.ray_train import TrainTask, initial_network
from slimctl.jobs.training.sources import PairSource
from slimctl.models.counter_random import Stream
from slimctl.models.critics import Critic
from slimctl.models.flows.parameterisation import Parameterisation
from slimctl.models.flows.spec import AdversarialSpec, KarrasTime, LogNormalTime, UniformTime
from slimctl.models.losses import (
    divergence_weight,
    edm_weight,
    expected_image,
    matching_gradient,
    matching_loss,
    score_identity_loss,
    velocity_identity_loss,
)
from slimctl.models.networks.registry import parse_network
from slimctl.models.sharding import mesh_of
from slimctl.models.spec import ImageShape

CPU = torch.device("cpu")
SEED, UPDATES = 5, 3
TIME = UniformTime(low=0.02, high=0.98)
MLP = {"kind": "mlp", "width": 8}


@pytest.fixture
def data(make_dataset):
    return make_dataset(count=20, classes=4)


@pytest.fixture
def teacher(make_model, data):
    return make_model(label_counts=data.label_counts, seed=3)


@pytest.fixture
def pairs(make_pairs, make_analytic, data):
    return make_pairs(make_analytic(data, conditional=True), count=20)


@pytest.fixture
def make(store, teacher, data, share):
    def objective(labels=None, pairs=None, adversarial=None, weight=0.25, **changes):
        fields = {
            "teacher": "teacher", "data": "data", "network": MLP, "steps": 1, "seed": SEED,
            "time": TIME, "flip": False, "fake_updates": UPDATES, "adversarial": adversarial,
            "score_samples": 10, "score_every": 4, "precision": "float32",
        }  # fmt: skip
        inputs = {"teacher": teacher, "data": data}
        if pairs is not None:
            inputs["pairs"] = pairs
            fields |= {"pairs": "pairs", "pair_weight": weight, "pair_batch": 8}
        if labels is not None:
            rest = tuple(label for label in range(4) if label not in labels)
            inputs["split"] = Partition(id="split", subsets=(labels, rest), method="by hand")
            fields |= {"partition": "split", "part": 0}
        spec = MatchDistribution(**fields | changes)
        return DistributionMatching(spec, Handles(store, "", inputs))

    def prepared(bare=False, **changes):
        made = objective(**changes)
        if not bare:
            made.prepare(share())
        return made

    return prepared


class Student(nn.Module):
    """A velocity of one weight, which keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(-0.7))
        self.asked = []

    def forward(self, x0, t, label):
        self.asked.append((x0, t, label))
        return self.weight * x0


def test_equal_flows_give_no_gradient(make):
    """The fake network starts as the teacher, so at first nothing tells where to go."""
    objective, student = make(), Student()
    objective.loss(student, 0).backward()
    assert float(student.weight.grad) == 0.0


@pytest.fixture
def moved(make):
    """`moved(...)` is an objective whose fake network has left the teacher."""

    def objective(**changes):
        made = make(**changes)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in made.score_network().network.flow.parameters():
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
        return made

    return objective


def test_the_loss_is_the_matching_loss(moved, store, teacher, share, data):
    objective, student, step = moved(), Student(), 2
    loss = objective.loss(student, step)
    draws = Draws(SEED, share(), teacher.image)
    x0 = draws.noise(step, Stream.GUIDED_NOISE)
    label = draws.labels(step, Stream.GUIDED_LABEL, data.label_counts)
    x = x0 + student.weight * x0
    fake = objective.score_network().network
    gradient = matching_gradient(
        open_flow(store, teacher, CPU).velocity, fake.velocity, x.detach(), draws.noise(step),
        draws.times(step, TIME), label,
    )  # fmt: skip
    expected = matching_loss(x, gradient).mean()
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(each, student.weight) for each in (loss, expected))
    torch.testing.assert_close(found, wanted)
    assert float(found[0]) != 0.0
    assert len(student.asked) == 1
    assert not student.asked[0][1].any()


def test_pairs_are_a_term_of_their_own(moved, pairs, store, share):
    plain, steadied, student = moved(), moved(pairs=pairs, weight=0.25), Student()
    difference = steadied.loss(student, 1) - plain.loss(student, 1)
    draws = Draws(SEED, share().of(8), pairs.image)
    x0, x1, _ = PairSource(store, pairs, CPU).batch(draws.samples(1, pairs.count))
    expected = 0.25 * (x0 + student.weight * x0 - x1).square().mean()
    torch.testing.assert_close(difference, expected)
    assert set(steadied.report()) == {"matching_loss", "pair_loss"}


def test_labels_are_filtered_and_pairs_never(make, pairs, share):
    """The paper's rule: labels by part, pairs whole."""
    objective, student = make(labels=(1, 2), pairs=pairs), Student()
    fresh, regressed = set(), set()
    for step in range(12):
        objective.loss(student, step)
        label = student.asked[-1][2]
        fresh |= set(label[: share().count].tolist())
        regressed |= set(label[share().count :].tolist())
    assert fresh == {1, 2}
    assert regressed == {0, 1, 2, 3}


def test_real_images_and_labels_of_the_critic_are_those_of_the_part(make, data, store):
    objective = make(labels=(0, 3), adversarial=AdversarialSpec())
    seen = set()
    for number in range(20):
        seen |= set(objective._real_of(number, WHOLE)[2].tolist())
    assert seen == {0, 3}
    critic, said = objective.score_network().network, []
    critic.register_forward_hook(lambda module, inputs, output: said.append(inputs[2]))
    objective.score_network_loss(critic, Student(), 0, 0)
    assert set(said[0].tolist()) == {0, 3}


def test_the_fake_network_learns_the_flow_of_what_the_student_makes(make):
    objective, student = make(), Student()
    score_network = objective.score_network()
    assert (score_network.updates, score_network.rate) == (UPDATES, 1.0)
    optimizer = torch.optim.Adam(score_network.network.parameters(), 3e-3)
    losses = []
    for step in range(80):
        loss = objective.score_network_loss(score_network.network, student, step, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert student.weight.grad is None


def test_every_update_of_the_fake_network_sees_fresh_noise(make):
    objective, student = make(), Student()
    critic = objective.score_network().network
    for step in range(2):
        for update in range(UPDATES):
            objective.score_network_loss(critic, student, step, update)
    seen = [noise for noise, _, _ in student.asked]
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_the_adversarial_terms_have_their_weights(moved):
    weights = AdversarialSpec(critic_weight=0.5, generator_weight=0.25)
    plain, judged, student = moved(), moved(adversarial=weights), Student()
    critic = judged.score_network().network
    loss, alone = judged.loss(student, 1), plain.loss(student, 1)
    deceived = judged.report()["deception_loss"]
    torch.testing.assert_close(loss, alone + 0.25 * deceived)
    assert all(weight.grad is None for weight in critic.parameters())
    loss.backward()
    assert all(weight.grad is None for weight in critic.parameters())
    found = judged.score_network_loss(critic, student, 1, 0)
    report = judged.report()
    torch.testing.assert_close(found, report["fake_loss"] + 0.5 * report["critic_loss"])
    assert set(report) == {"matching_loss", "deception_loss", "fake_loss", "critic_loss"}


def test_the_gradient_of_deception_is_that_of_the_head(moved):
    """Against autograd through the critic as a whole."""
    objective, student = moved(adversarial=AdversarialSpec(generator_weight=1.0)), Student()
    with_head = torch.autograd.grad(objective.loss(student, 1), student.weight)[0]
    alone = torch.autograd.grad(moved().loss(student, 1), student.weight)[0]
    x0, _, label = student.asked[0]
    x = x0 + student.weight * x0
    draws = objective._draws
    t = draws.times(1, TIME)[:, None, None, None]
    point = (1 - t) * draws.noise(1) + t * x
    _, logit = objective.score_network().network(point, t.flatten(), label)
    expected = torch.autograd.grad(nn.functional.softplus(-logit).mean(), student.weight)[0]
    torch.testing.assert_close(with_head - alone, expected, rtol=1e-4, atol=1e-7)


def test_the_head_is_a_function_of_the_seed(make):
    torch.manual_seed(1)
    first = make(adversarial=AdversarialSpec()).score_network().network
    torch.manual_seed(2)
    second = make(adversarial=AdversarialSpec()).score_network().network
    other = make(adversarial=AdversarialSpec(), seed=6).score_network().network
    assert isinstance(first, Critic)
    assert torch.equal(first.head.conv.weight, second.head.conv.weight)
    assert not torch.equal(first.head.conv.weight, other.head.conv.weight)


def test_it_travels_by_pickle(store, make, share):
    made = make()
    fresh = DistributionMatching(made.spec, made.handles)
    copy = pickle.loads(pickle.dumps(fresh))
    copy.prepare(share())
    assert torch.equal(copy.loss(Student(), 1), made.loss(Student(), 1))


def test_the_score_sees_no_noise_of_the_training(make):
    assert derive_seed(SEED, "judge") != SEED
    objective = make()
    student = Student()
    assert objective.score(student) == objective.score(student) > 0.0
    assert objective.score_every() == 4


def test_the_fake_network_trains_on_the_whole_range(make):
    """The flows are compared within [0.4, 0.6], but what the fake one knows is not bounded so."""
    objective, seen = make(time=UniformTime(low=0.4, high=0.6)), []

    def score_network(points, t, label):
        seen.append(t)
        return torch.zeros_like(points), None

    for step in range(8):
        objective.score_network_loss(score_network, Student(), step, 0)
    drawn = torch.cat(seen)
    assert drawn.min() < 0.3
    assert drawn.max() > 0.7


@pytest.mark.parametrize("adversarial", [None, AdversarialSpec()])
def test_micro_batches_add_up(make, pairs, assert_parts_add_up, adversarial):
    objective = make(adversarial=adversarial, pairs=pairs)
    student, critic = Student(), objective.score_network().network
    assert_parts_add_up(lambda part: objective.loss(student, 1, part), [student.weight])
    weights = [*critic.parameters()] if adversarial else [*critic.flow.parameters()]
    assert_parts_add_up(
        lambda part: objective.score_network_loss(critic, student, 1, 2, part), weights
    )


# Other objectives than DMD2's

SID = {"kind": "sid", "alpha": 1.2}
CRITIC = {
    "network": {"channels": 4, "channel_multipliers": [1]}, "time": {"kind": "karras"},
    "augmentation": 0.4, "augmentation_ramp": 2, "updates": 2,
}  # fmt: skip
OBJECTIVES = {
    "dmd2": {"adversarial": {}, "adversarial_time": KarrasTime(), "fake_weight": "edm"},
    "sid": {"objective": SID, "fake_adam_betas": (0.5, 0.9)},
    "uid": {"objective": {"kind": "uid"}},
    "f_distill": {"objective": {"kind": "f_distill"}, "adversarial": {}},
    "sida": {"objective": SID, "adversarial": {"head": "mean", "generator_weight": 1e-4}},
    "critic": {"objective": SID, "critic": CRITIC},
}


def test_objectives_bring_the_settings_of_their_papers(make):
    spec = make(objective=SID, bare=True).spec
    left = MatchDistribution.model_validate(
        {"teacher": "t", "data": "d", "network": MLP, "steps": 1, "objective": SID}
    )
    assert left.time == KarrasTime(low=0, high=0.8)
    assert (left.fake_time, left.fake_weight) == (LogNormalTime(), "edm")
    assert (left.updates(), left.adam_betas) == (1, (0.0, 0.999))
    assert (spec.time, spec.updates()) == (TIME, UPDATES)  # what is said counts
    assert MatchDistribution.model_validate(left.model_dump()) == left


def test_a_weight_by_the_critic_needs_one():
    fields = {"teacher": "t", "data": "d", "network": MLP, "steps": 1}
    with pytest.raises(ValidationError, match="f_distill weighs samples by a critic"):
        MatchDistribution(**fields, objective={"kind": "f_distill"})
    with pytest.raises(ValidationError, match="adversarial_time is the critic's"):
        MatchDistribution(**fields, adversarial_time={"kind": "karras"})


def test_what_came_later_leaves_keys_as_they_were():
    spec = MatchDistribution(teacher="t", data="d", network=MLP, steps=1)
    later = {
        "objective",
        "critic",
        "fake_adam_betas",
        "fake_adam_epsilon",
        "fake_time",
        "fake_weight",
    }
    content = content_of(spec, {"t": "flow-1", "d": "data-1"})
    assert not {*later, "adversarial_time"} & set(content)
    changed = spec.model_copy(update={"fake_weight": "edm"})
    assert content_of(changed, {"t": "flow-1", "d": "data-1"}).keys() - content == {"fake_weight"}


def compared(objective, student, step):
    """What the flows of an objective are compared at: images, noise, times and labels."""
    x0, _, label = student.asked[0]
    draws = objective._draws
    time = draws.times(step, objective.spec.time)
    return x0 + student.weight * x0, draws.noise(step), time, label


@pytest.mark.parametrize("kind", ["sid", "uid"])
def test_the_identity_losses_are_trained_as_they_are_written(moved, kind):
    """The gradient through both networks, and none for the score network's weights."""
    objective, student = moved(**OBJECTIVES[kind], time=TIME), Student()
    loss = objective.loss(student, 1)
    x, noise, t, label = compared(objective, student, 1)
    critic, teacher = objective.score_network().network, objective._teacher
    flows = teacher.velocity, critic.velocity
    if kind == "sid":
        expected = score_identity_loss(*flows, x, noise, t, label, alpha=1.2).mean()
    else:
        expected = velocity_identity_loss(*flows, x, noise, t, label).mean()
    torch.testing.assert_close(loss, expected)
    wanted = torch.autograd.grad(expected, student.weight)[0]
    loss.backward()
    torch.testing.assert_close(student.weight.grad, wanted, rtol=1e-4, atol=1e-8)
    assert all(weight.grad is None for weight in critic.parameters())


def test_samples_weigh_what_the_critic_says(moved):
    objective, student = moved(**OBJECTIVES["f_distill"], time=TIME), Student()
    loss = objective.loss(student, 1) - 3e-3 * objective.report()["deception_loss"]
    x, noise, t, label = compared(objective, student, 1)
    critic, teacher = objective.score_network().network, objective._teacher
    time = t[:, None, None, None]
    logit = critic((1 - time) * noise + time * x, t, label)[1].detach()
    gradient = matching_gradient(teacher.velocity, critic.velocity, x, noise, t, label)
    weight = divergence_weight(logit, "js")[:, None, None, None]
    assert weight.std() > 0
    torch.testing.assert_close(loss, matching_loss(x, weight * gradient).mean())


def test_the_critic_has_times_and_noise_of_its_own(moved):
    """Points of the flow, of generated images to judge and of real ones, in one batch."""
    late = KarrasTime(low=0.0, high=0.1)
    objective = moved(adversarial=AdversarialSpec(), adversarial_time=late)
    critic, student, said = objective.score_network().network, Student(), []
    critic.register_forward_hook(lambda module, inputs, output: said.append((*inputs, output)))
    found = objective.score_network_loss(critic, student, 0, 0)
    points, t, _, (velocity, logit) = said[0]
    n = len(points) // 3
    assert t[:n].min() < 0.5 < t[n:].min()
    judged = nn.functional.softplus(logit[n : 2 * n]) + nn.functional.softplus(-logit[2 * n :])
    draws = objective._fake_draws
    x0, _, _ = student.asked[0]
    x, noise = x0 + student.weight.detach() * x0, draws.noise(0)
    flow = (velocity[:n] - (x - noise)).square().mean()
    torch.testing.assert_close(found, flow + 1e-2 * judged.mean())
    said.clear()
    objective.loss(student, 0)
    assert said[-1][1].min() > 0.5  # and so does the student's part


def test_the_score_network_weighs_times_as_edm_does(make):
    plain, weighted, student = make(), make(fake_weight="edm"), Student()
    fake = plain.score_network().network
    weighted.score_network_loss(fake, student, 0, 0)
    x0, _, label = student.asked[0]
    draws = plain._fake_draws
    noise, t = draws.noise(0), draws.times(0, UniformTime())
    x, time = x0 + student.weight.detach() * x0, t[:, None, None, None]
    velocity = fake.velocity((1 - time) * noise + time * x, t, label)
    each = (velocity - (x - noise)).square().mean((1, 2, 3))
    expected = (edm_weight(t) * each).mean()
    torch.testing.assert_close(weighted.report()["fake_loss"], expected)


def train(objective, folder, image, rank=0, world=1, stop_at=None, splits=False):
    """All steps of an objective's spec; it is cut off before step `stop_at`."""
    torch.manual_seed(0)
    network = parse_network(MLP).build(image)
    size = objective.spec.batch_size
    mesh = mesh_of(world, CPU) if splits else None
    share = Share(rank * size // world, size // world, size, CPU, mesh)
    spec, steps = objective.spec, objective.loss

    def loss(model, step, part):
        if step == stop_at:
            raise SystemExit
        return steps(model, step, part)

    objective.loss = loss
    Trainer(spec, network, objective, share, folder, lambda step, metrics: None, rank, world).run()
    return load_checkpoint(folder).tensors


@pytest.fixture
def trained(make, store, teacher, data):
    def run(name, kind, **how):
        changes = {"steps": 4, "batch_size": 8, "checkpoint_s": 1e-9, "fake_updates": 2}
        fields = OBJECTIVES[kind] | changes | {"score_every": 2, "learning_rate": 1e-3}
        return train(
            make(bare=True, **fields), store.work(f"match_distribution-{name}"), teacher.image,
            **how,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_every_objective_resumes_bit_for_bit_from_every_step(trained, kind):
    whole = trained("whole", kind)
    for step in range(1, 4):
        with pytest.raises(SystemExit):
            trained(f"parts{step}", kind, stop_at=step)
        parts = trained(f"parts{step}", kind)
        assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("kind", "splits"), [*((kind, False) for kind in OBJECTIVES), ("dmd2", True), ("critic", True)]
)
def test_two_workers_train_what_one_does(trained, tmp_path, kind, splits):
    alone, how = trained("alone", kind), {"world": 2, "splits": splits}
    said = on_gloo(tmp_path, lambda rank: trained("both", kind, rank=rank, **how))
    print(said[0])
    assert said == ["", ""]
    together = trained("both", kind)  # nothing is left to do: the checkpoint
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-3, atol=1e-5)


# The critic of images


def shaken(objective):
    """The critic of an objective, with weights that have left their zeros."""
    critic, generator = objective.image_critic().network, torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in critic.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return critic


def test_the_critic_adds_its_term_and_takes_no_gradient(moved, share):
    plain, student = moved(time=TIME), Student()
    judged = moved(time=TIME, critic={"network": CRITIC["network"], "weight": 0.5})
    critic = shaken(judged)
    loss, alone = judged.loss(student, 1), plain.loss(student, 1)
    deceived = judged.report()["image_deception_loss"]
    torch.testing.assert_close(loss, alone + 0.5 * deceived)
    (found,) = torch.autograd.grad(loss, student.weight, retain_graph=True)
    (rest,) = torch.autograd.grad(alone, student.weight)
    x0, _, label = student.asked[0]
    x, ones = x0 + student.weight * x0, torch.ones(len(x0))
    real, real_label = judged._real.of_step(judged._term._student, 1, flip=False)
    above, below = critic(x, ones, label)[:, 0], critic(real, ones, real_label)[:, 0]
    expected = nn.functional.softplus(below - above).mean()
    torch.testing.assert_close(deceived, expected.detach())
    (wanted,) = torch.autograd.grad(0.5 * expected, student.weight)
    torch.testing.assert_close(found - rest, wanted, rtol=1e-4, atol=1e-7)
    loss.backward()
    assert all(weight.grad is None for weight in critic.parameters())


def test_the_critic_learns_from_pairs_of_one_time(moved):
    objective, student = moved(critic=CRITIC), Student()
    critic, seen = shaken(objective), []
    critic.register_forward_hook(lambda module, inputs, output: seen.append((*inputs, output)))
    loss = objective.image_critic_loss(critic, student, 1, 0)
    points, t, label, said = seen[0]
    n = len(points) // 2
    torch.testing.assert_close(t[:n], t[n:])
    assert 0 < int((t == 1).sum()) < 2 * n
    slope = torch.autograd.grad(said[:, 0].sum(), points, create_graph=True)[0].square()
    below, above, zero = said[:n, 0], said[n:, 0], said[:n, 1]
    expected = (
        nn.functional.softplus(below - above).mean() + 0.05 / 2 * 2 * slope.sum((1, 2, 3)).mean()
    )
    expected = expected + nn.functional.softplus(zero - above).mean()
    expected = expected + nn.functional.softplus(below - zero).mean()
    torch.testing.assert_close(loss, expected)
    assert student.weight.grad is None
    assert set(label.tolist()) <= {0, 1, 2, 3}


def test_a_critic_of_noised_images_gives_the_weights_of_f_distill(moved):
    kl = {"kind": "f_distill", "divergence": "kl"}
    objective, student = moved(objective=kl, critic=CRITIC, time=TIME), Student()
    critic = shaken(objective)
    loss = objective.loss(student, 0) - 0.01 * objective.report()["image_deception_loss"]
    x, noise, t, label = compared(objective, student, 0)
    x, time = x.detach(), t[:, None, None, None]
    said = critic((1 - time) * noise + time * x, t, label).detach()
    flows = objective._teacher.velocity, objective.score_network().network.velocity
    weight = divergence_weight(said[:, 0] - said[:, 1], "kl")[:, None, None, None]
    gradient = matching_gradient(*flows, x, noise, t, label)
    torch.testing.assert_close(loss, matching_loss(x, weight * gradient).mean())


def test_micro_batches_of_the_critic_add_up(make, assert_parts_add_up):
    objective, student = make(critic=CRITIC), Student()
    critic = shaken(objective)
    weights = [*critic.parameters()]
    assert_parts_add_up(lambda part: objective.loss(student, 1, part), [student.weight])
    assert_parts_add_up(
        lambda part: objective.image_critic_loss(critic, student, 1, 1, part), weights
    )


def test_a_critic_without_noise_cannot_weigh_samples():
    fields = {"teacher": "t", "data": "d", "network": MLP, "steps": 1, "critic": {}}
    with pytest.raises(ValidationError, match="images with noise"):
        MatchDistribution(**fields, objective={"kind": "f_distill"})


# Starts


@pytest.mark.parametrize("prediction", ["velocity", "edm"])
def test_a_student_begins_as_its_flow_at_sigma_init(make, teacher, share, data, store, prediction):
    how = {"prediction": prediction, "schedule": {"kind": "edm"}} if prediction == "edm" else {}
    start = teacher.model_copy(update=dict(Parameterisation(**how)))
    objective = make(bare=True, network=None, start="start", sigma_init=2.5)
    objective.handles.inputs["start"] = start
    made = objective.spec.made(objective.handles)
    assert (made.t_start, made.network["kind"]) == (0.0, "denoiser")
    task = TrainTask(
        "job", "id", objective.spec, parse_network(made.network), made.image, objective, start,
        store, SilentReporter(), 1,
    )  # fmt: skip
    network, flow = initial_network(task), open_flow(store, start, CPU)
    x0, label = torch.randn(3, 1, 4, 4), torch.arange(3)
    t = torch.full((3,), 2 / 7)
    expected = expected_image(flow.velocity, 5 / 7 * x0, t, label)
    torch.testing.assert_close(x0 + network(x0, torch.zeros(3), label), expected)
    objective.prepare(share())
    objective.loss(network.train(), 0).backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_where_sigma_init_makes_no_sense_is_said():
    fields = {"teacher": "t", "data": "d", "steps": 1}
    with pytest.raises(ValidationError, match="name it as start"):
        MatchDistribution(**fields, network=MLP, sigma_init=2.5)
    image = ImageShape(channels=1, size=4)
    known = {name: Facts(image=image) for name in ("teacher", "data")}
    denoises = Parameterisation(prediction="edm", schedule={"kind": "edm"})
    flow = Facts(image=image, flow=denoises, network=parse_network(MLP), made="Flow")
    asked = MatchDistribution(**fields, start="s", sigma_init=2.5)
    assert asked.expect({**known, "start": flow}).network.kind == "denoiser"
    generator = Facts(image=image, network=parse_network(MLP), made="Generator")
    with pytest.raises(FieldErrors, match="a beginning of its own"):
        asked.expect({**known, "start": generator})
