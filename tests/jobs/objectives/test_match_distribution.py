import pickle

import pytest
import torch
from torch import nn

from slimctl.jobs.base.artifacts import Partition
from slimctl.jobs.base.context import Handles
from slimctl.jobs.base.keys import derive_seed
from slimctl.jobs.kinds.match_distribution import MatchDistribution
from slimctl.jobs.objectives.match_distribution import DistributionMatching
from slimctl.jobs.storage.flows import open_flow
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.objective import WHOLE
from slimctl.jobs.training.sources import PairSource
from slimctl.models.counter_random import Stream
from slimctl.models.critics import Critic
from slimctl.models.flows.spec import AdversarialSpec, UniformTime
from slimctl.models.losses import matching_gradient, matching_loss

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

    def prepared(**changes):
        made = objective(**changes)
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
