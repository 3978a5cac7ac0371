"""A score_network network and the best average, in the loop and over crashes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.training.checkpoint import load_checkpoint
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.evaluator import ScoredAverage, best_weights, read_scores
from slimctl.jobs.training.loop import Trainer, learning_rate
from slimctl.jobs.training.objective import WHOLE, Objective, ScoreNetwork, Share
from slimctl.models.ema import PowerEMA
from slimctl.models.engine import Engine, Runner
from slimctl.models.spec import ImageShape

pytestmark = pytest.mark.usefixtures("written_at_once")
CPU = torch.device("cpu")
IMAGE = ImageShape(channels=1, size=2)
BATCH, STEPS, CRASH = 4, 9, 5
UPDATES, RATE = 3, 0.5


def settings(**changes):
    fields = {
        "data": "d", "network": {"kind": "mlp"}, "steps": STEPS, "batch_size": BATCH, "seed": 1,
        "learning_rate": 1e-2, "warmup": 2, "decay": "cosine", "log_every": 4,
    }  # fmt: skip
    return TrainFlow.model_validate(fields | changes)


class Pursuit(Objective):
    """The score network copies the student, which runs away from it; a fixed list scores it."""

    def __init__(self, scores=(), crash_at=None):
        self.scores = list(scores)
        self.crash_at = crash_at
        self.asked = []

    def prepare(self, share):
        self.draws = Draws(2, share, IMAGE)
        torch.manual_seed(3)
        self.network = nn.Linear(4, 4)

    def score_network(self):
        return ScoreNetwork(self.network, UPDATES, RATE)

    def score_network_loss(self, score_network, network, step, update, part=WHOLE):
        self.asked.append((step, update))
        if step == self.crash_at and update == 1:
            raise SystemExit
        draws = self.draws.of(part)
        x = draws.noise(step * UPDATES + update).flatten(1)
        with torch.no_grad():
            target = network(x)
        return draws.weighted(functional.mse_loss(score_network(x), target))

    def loss(self, network, step, part=WHOLE):
        draws = self.draws.of(part)
        x = draws.noise(step).flatten(1)
        return draws.weighted(-(network(x) - self.network(x).detach()).square().mean())

    def score_every(self):
        return 2 if self.scores else 0

    def score(self, network):
        assert not network.training
        return self.scores.pop(0)


def trainer(folder, objective, spec=None, progress=None):
    torch.manual_seed(0)
    share = Share(0, BATCH, BATCH, CPU)
    said = progress or (lambda step, metrics: None)
    return Trainer(spec or settings(), nn.Linear(4, 4), objective, share, folder, said)


@pytest.fixture
def work(store):
    return lambda name: store.work(f"train_flow-{name}")


def test_the_score_network_goes_first_as_often_as_it_asks(work):
    objective = Pursuit()
    trainer(work("a"), objective).run()
    assert objective.asked == [(step, update) for step in range(STEPS) for update in range(UPDATES)]


def test_it_sees_the_student_as_the_student_is_computed(work):
    """In bfloat16 where the student is: what it learns is the flow of that student."""
    objective, seen = Pursuit(), []
    loss = objective.score_network_loss

    def look(score_network, network, *rest):
        seen.append(network)
        return loss(score_network, network, *rest)

    objective.score_network_loss = look
    made = trainer(work("a"), objective)
    made.engine = Engine(precision="bfloat16")
    made.run()
    assert all(isinstance(network, Runner) and network.network is made.network for network in seen)
    assert len(seen) == STEPS * UPDATES


def test_its_steps_are_those_of_adam_at_its_own_rate(work):
    """Against the same training written out: the student's optimizer never touches it."""
    spec = settings(gradient_clip=None)
    objective = Pursuit()
    made = trainer(work("a"), objective, spec)
    made.run()
    other = Pursuit()
    other.prepare(Share(0, BATCH, BATCH, CPU))
    torch.manual_seed(0)
    student = nn.Linear(4, 4)
    both = [torch.optim.Adam(each.parameters()) for each in (student, other.network)]
    for step in range(STEPS):
        rate = learning_rate(spec, step)
        for optimizer, own in zip(both, (rate, rate * RATE), strict=True):
            optimizer.param_groups[0]["lr"] = own
        for update in range(UPDATES):
            both[1].zero_grad()
            other.score_network_loss(other.network, student, step, update).backward()
            both[1].step()
        both[0].zero_grad()
        other.loss(student, step).backward()
        both[0].step()
    for mine, theirs in ((made.network, student), (objective.network, other.network)):
        for name, weight in mine.state_dict().items():
            torch.testing.assert_close(weight, theirs.state_dict()[name])


@pytest.mark.parametrize("checkpoint_s", [1e-9, 1e9], ids=["every step", "never"])
def test_a_crash_between_its_updates_changes_nothing(work, checkpoint_s):
    scores = [9.0, 7.0, 8.0, 5.0, 6.0, 5.5]
    trainer(work("whole"), Pursuit(scores)).run()
    spec = settings(checkpoint_s=checkpoint_s)
    with pytest.raises(SystemExit):
        trainer(work("parts"), Pursuit(scores, CRASH), spec).run()
    found = load_checkpoint(work("parts"))
    assert (found.step if found else 0) == (CRASH if checkpoint_s < 1 else 0)
    done = 3 if found else 0  # scores at 0, 2 and 4 are in the checkpoint
    trainer(work("parts"), Pursuit(scores[done:]), spec).run()
    whole, parts = (load_checkpoint(work(name)).tensors for name in ("whole", "parts"))
    assert set(whole) == set(parts)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert {"companion.model.weight", "companion.adam.0.exp_avg", "best.weight"} < set(whole)


@pytest.mark.parametrize(
    ("scores", "best_step"),
    [([9, 7, 8, 5, 6, 5.5], 6), ([1, 7, 8, 5, 6, 5.5], 0), ([9, 8, 7, 6, 5, 4], STEPS)],
)
def test_the_best_average_is_kept(work, scores, best_step):
    trainer(work("whole"), Pursuit(scores)).run()
    tensors = load_checkpoint(work("whole")).tensors
    kept = read_scores(tensors)
    assert (kept.start, kept.best, kept.best_step) == (scores[0], min(scores), best_step)
    assert kept.last == scores[-1]
    assert set(best_weights(tensors)) == {"weight", "bias"}
    if best_step == STEPS:
        assert torch.equal(tensors["best.weight"], tensors["ema.weight"])
    if best_step == 0:
        torch.manual_seed(0)
        assert torch.equal(tensors["best.weight"], nn.Linear(4, 4).weight)


def test_the_score_is_of_the_average_and_stands_in_the_curve(work):
    said = []
    trainer(
        work("a"), Pursuit([9, 7, 8, 5, 6, 4]), progress=lambda step, metrics: said.append(metrics)
    ).run()
    assert [metrics["score"] for metrics in said] == [8.0, 6.0, 4.0]


def test_scoring_leaves_the_training_alone(work):
    trainer(work("with"), Pursuit([9, 7, 8, 5, 6, 4])).run()
    trainer(work("without"), Pursuit()).run()
    scored, plain = (load_checkpoint(work(name)).tensors for name in ("with", "without"))
    assert all(torch.equal(value, scored[name]) for name, value in plain.items())
    assert read_scores(plain) is None
    assert best_weights(plain) == {}


def test_what_is_judged_is_the_average():
    network = nn.Linear(1, 1)
    ema = PowerEMA(network)
    best = ScoredAverage(copy.deepcopy(network), ema, lambda judged: float(judged.weight))
    start = float(network.weight.detach())
    with torch.no_grad():
        network.weight.sub_(1.0)
    best.score(0)
    assert best.scores.start == start  # the average has not followed yet
    ema.update()
    best.score(1)
    assert start - 1.0 < best.scores.best < start
