import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from slimctl.jobs.base.errors import TrainingDiverged
from slimctl.jobs.base.keys import derive_seed
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.training import checkpoint, loop
from slimctl.jobs.training.checkpoint import checkpoint_name, load_checkpoint
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.loop import Trainer, learning_rate
from slimctl.jobs.training.objective import WHOLE, Objective, Share
from slimctl.models.ema import power_decay
from slimctl.models.spec import ImageShape

pytestmark = pytest.mark.usefixtures("written_at_once")
CPU = torch.device("cpu")
IMAGE = ImageShape(channels=1, size=2)
BATCH = 6
STEPS = 12
CRASH = 7
CLIP = 0.05
"""Below the norm of every step here."""


def settings(**changes):
    fields = {
        "data": "data",
        "network": {"kind": "song_unet", "channels": 4},
        "steps": STEPS,
        "batch_size": BATCH,
        "learning_rate": 1e-2,
        "gradient_clip": CLIP,
        "warmup": 3,
        "decay": "cosine",
        "seed": 1,
        "log_every": 5,
    }
    return TrainFlow.model_validate(fields | changes)


def make_network(dropout=0.3):
    torch.manual_seed(0)
    hidden = [nn.BatchNorm1d(4), nn.Linear(4, 8), nn.SiLU(), nn.Dropout(dropout), nn.Linear(8, 4)]
    return nn.Sequential(nn.Flatten(), *hidden)


class Regression(Objective):
    """Learns to negate noise; `spoil` changes the loss of a step."""

    def __init__(self, spoil=None):
        self.spoil = spoil or {}
        self.asked = []

    def prepare(self, share):
        self.draws = Draws(2, share, IMAGE)

    def loss(self, network, step, part=WHOLE):
        self.asked.append(step)
        draws = self.draws.of(part)
        x = draws.noise(step)
        value = draws.weighted(functional.mse_loss(network(x), -x.flatten(1)))
        return self.spoil[step](value, network) if step in self.spoil else value

    def report(self):
        return {"part": torch.tensor(0.5)}


def crash(loss, network):
    raise SystemExit


def trainer(folder, spec=None, objective=None, progress=None, **changes):
    share = Share(0, BATCH, BATCH, CPU)
    network = make_network()
    objective = objective or Regression()
    return Trainer(
        spec or settings(),
        network,
        objective,
        share,
        folder,
        progress or (lambda step, metrics: None),
        **changes,
    )


@pytest.fixture
def work(store):
    """Work folders by name."""
    return lambda name: store.work(f"train_flow-{name}")


def assert_same(first, second):
    assert set(first) == set(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture
def whole(work):
    """The last checkpoint of a training in one go."""
    trainer(work("whole")).run()
    return load_checkpoint(work("whole"))


def test_a_checkpoint_holds_weights_average_and_moments(whole):
    names = set(make_network().state_dict())
    parts = {f"{part}.{name}" for part in ("model", "ema") for name in names}
    moments = {
        f"adam.{i}.{moment}" for i in range(6) for moment in ("exp_avg", "exp_avg_sq", "step")
    }
    assert set(whole.tensors) == parts | moments
    assert whole.step == STEPS
    assert float(whole.tensors["adam.0.step"]) == STEPS


@pytest.mark.parametrize("checkpoint_s", [1e-9, 1e9], ids=["every step", "never"])
def test_a_training_that_crashed_resumes_bit_for_bit(work, whole, checkpoint_s):
    folder = work("crashed")
    spec = settings(checkpoint_s=checkpoint_s)
    with pytest.raises(SystemExit):
        trainer(folder, spec, Regression({CRASH: crash})).run()
    found = load_checkpoint(folder)
    assert (found.step if found else 0) == (CRASH if checkpoint_s < 1 else 0)
    objective = Regression()
    trainer(folder, spec, objective).run()
    assert objective.asked[0] == (CRASH if found else 0)
    assert_same(load_checkpoint(folder).tensors, whole.tensors)


def test_a_training_resumes_from_the_last_whole_checkpoint(work, whole):
    folder = work("crashed")
    spec = settings(checkpoint_s=1e-9)
    with pytest.raises(SystemExit):
        trainer(folder, spec, Regression({CRASH: crash})).run()
    folder.write(checkpoint_name(CRASH), b"half of a checkpoint")
    objective = Regression()
    trainer(folder, spec, objective).run()
    assert objective.asked[0] == CRASH - 1
    assert_same(load_checkpoint(folder).tensors, whole.tensors)


def test_a_training_that_crashes_at_every_step_ends_the_same(work, whole):
    folder = work("crashing")
    spec = settings(checkpoint_s=1e-9)
    for step in range(1, STEPS):
        with pytest.raises(SystemExit):
            trainer(folder, spec, Regression({step: crash})).run()
    trainer(folder, spec).run()
    assert_same(load_checkpoint(folder).tensors, whole.tensors)


def test_a_finished_training_is_not_done_again(work, whole):
    objective = Regression()
    trainer(work("whole"), objective=objective).run()
    assert objective.asked == []
    assert_same(load_checkpoint(work("whole")).tensors, whole.tensors)


def test_what_only_changes_speed_does_not_change_the_result(work, whole):
    trainer(work("quick"), settings(log_every=1, checkpoint_s=1e-9)).run()
    assert_same(load_checkpoint(work("quick")).tensors, whole.tensors)


@pytest.mark.parametrize("changes", [{"seed": 2}, {"learning_rate": 1e-3}, {"gradient_clip": None}])
def test_what_changes_the_result_does(work, whole, changes):
    trainer(work("other"), settings(**changes)).run()
    other = load_checkpoint(work("other"))
    assert not torch.equal(other.tensors["model.2.weight"], whole.tensors["model.2.weight"])


def test_dropout_differs_from_step_to_step_and_from_rank_to_rank(work):
    def losses(rank):
        one = trainer(work("x"), settings(learning_rate=1e-12), rank=rank)
        one.objective.prepare(one.share)
        always = one.objective.draws.noise(0)
        one.objective.draws.noise = lambda step: always
        return [float(one._advance(one.network)) for _ in range(4)]

    assert len(set(losses(0))) == 4
    assert losses(0) == losses(0)
    assert losses(0) != losses(1)


def test_training_is_adam_on_the_clipped_gradient_of_the_scheduled_rate(work, whole):
    """The same in plain torch: its own Adam, unfused."""
    spec = settings()
    network = make_network().train()
    objective = Regression()
    objective.prepare(Share(0, BATCH, BATCH, CPU))
    optimizer = torch.optim.Adam(network.parameters(), lr=1.0, foreach=False, fused=False)
    average = {name: value.double() for name, value in network.state_dict().items()}
    for step in range(STEPS):
        torch.manual_seed(derive_seed(1, "dropout", step, 0))
        optimizer.param_groups[0]["lr"] = learning_rate(spec, step)
        optimizer.zero_grad()
        objective.loss(network, step).backward()
        norm = torch.cat([p.grad.flatten() for p in network.parameters()]).norm()
        assert norm > CLIP
        for weight in network.parameters():
            weight.grad.mul_(min(1.0, CLIP / (float(norm) + 1e-6)))
        optimizer.step()
        decay = power_decay(step + 1, 0.999999)
        for name, value in network.state_dict().items():
            average[name] = decay * average[name] + (1 - decay) * value.double()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(whole.tensors[f"model.{name}"], value, rtol=1e-4, atol=1e-6)
        if value.is_floating_point():
            mean = whole.tensors[f"ema.{name}"].double()
            torch.testing.assert_close(mean, average[name], rtol=1e-4, atol=1e-6)


def test_the_average_is_the_power_law_of_all_weights(work):
    """Weight of step k after n updates: 9 / (10 + k) prod_{j > k} (1 + j) / (10 + j)."""
    one = trainer(work("ema"))
    one.objective.prepare(one.share)
    seen = [{k: v.double().clone() for k, v in one.network.state_dict().items()}]
    for _ in range(STEPS):
        one._advance(one.network)
        seen.append({k: v.double().clone() for k, v in one.network.state_dict().items()})
    shares = [9 / (10 + k) if k else 1.0 for k in range(STEPS + 1)]
    for k in range(STEPS + 1):
        shares[k] *= math.prod((1 + j) / (10 + j) for j in range(k + 1, STEPS + 1))
    assert sum(shares) == pytest.approx(1.0)
    assert one.ema.updates == STEPS
    for name in ("2.weight", "5.bias", "1.running_mean"):
        mean = sum(share * state[name] for share, state in zip(shares, seen, strict=True))
        torch.testing.assert_close(one.ema.average[name].double(), mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("limit", [None, 0.01, 1.0, 1e6])
def test_gradients_are_clipped_as_a_whole(work, limit):
    one = trainer(
        work("clip"), settings(gradient_clip=limit), Regression({0: lambda v, n: 100 * v})
    )
    free = trainer(
        work("free"), settings(gradient_clip=None), Regression({0: lambda v, n: 100 * v})
    )
    grads = []
    for each in (one, free):
        each.objective.prepare(each.share)
        each._advance(each.network)
        grads.append(torch.cat([p.grad.flatten() for p in each.network.parameters()]))
    norm = float(grads[1].norm())
    assert norm > 1.0
    wanted = grads[1] * min(1.0, (limit or math.inf) / norm)
    torch.testing.assert_close(grads[0], wanted, rtol=1e-4, atol=1e-8)


def to_nan(loss, network):
    return loss * math.nan


def to_infinity(loss, network):
    return loss + math.inf


def to_nan_gradient(loss, network):
    """A finite loss whose gradient is not: the slope of a square root at 0."""
    return loss + (0 * network[2].weight).abs().sum().sqrt()


@pytest.mark.parametrize("step", [0, 3, 4, 5, 11])
@pytest.mark.parametrize(("spoil", "value"), [(to_nan, "nan"), (to_infinity, "inf")])
def test_a_diverged_loss_names_its_step_and_the_last_good_checkpoint(work, step, spoil, value):
    folder = work("diverged")
    one = trainer(folder, settings(checkpoint_s=1e-9), Regression({step: spoil}))
    with pytest.raises(TrainingDiverged) as error:
        one.run()
    last = checkpoint_name(step) if step else "none was written yet"
    assert f"the loss became {value} at step {step}; last good checkpoint: {last}" in str(
        error.value
    )
    saved = load_checkpoint(folder)
    assert (saved.step if saved else 0) == step
    if saved:
        assert all(value.isfinite().all() for value in saved.tensors.values())


def test_the_last_of_several_bad_steps_hides_no_earlier_one(work):
    bad = Regression({6: to_nan, 8: to_infinity})
    with pytest.raises(TrainingDiverged, match="became nan at step 6"):
        trainer(work("bad"), objective=bad).run()


@pytest.mark.parametrize("step", [4, 11])
def test_weights_that_are_no_numbers_are_not_kept(work, step):
    """The loss of the step was still finite, and no other follows before the log."""
    folder = work("weights")
    bad = Regression({step: to_nan_gradient})
    with pytest.raises(TrainingDiverged, match=f"weights became NaN or infinite at step {step}"):
        trainer(folder, settings(checkpoint_s=1e-9, gradient_clip=None), bad).run()
    assert load_checkpoint(folder).step == step


def test_progress_is_the_mean_loss_since_the_last_point(work):
    points = []
    values = torch.arange(1.0, STEPS + 1)
    fixed = Regression({k: lambda loss, _, k=k: 0 * loss + values[k] for k in range(STEPS)})
    one = trainer(work("p"), objective=fixed, progress=lambda *point: points.append(point))
    one.run()
    assert [step for step, _ in points] == [5, 10, 12]
    assert [m["loss"] for _, m in points] == pytest.approx([3.0, 8.0, 11.5])
    assert [m["part"] for _, m in points] == [0.5] * 3
    assert points[0][1]["learning_rate"] == learning_rate(one.spec, 4)


def ticking(monkeypatch, one, seconds):
    """Makes every step take so long."""
    monkeypatch.setattr(loop.time, "perf_counter", lambda: seconds * len(one.objective.asked))


def test_checkpoints_do_not_wait_for_the_log(work, monkeypatch):
    saved = []
    save = checkpoint.save_checkpoint
    monkeypatch.setattr(
        checkpoint, "save_checkpoint", lambda f, state: saved.append(state.step) or save(f, state)
    )
    one = trainer(work("slow"), settings(checkpoint_s=30, log_every=1000))
    ticking(monkeypatch, one, 10)
    one.run()
    assert saved == [3, 6, 9, 12]


def test_training_time_adds_up_over_attempts(work, monkeypatch):
    spec = settings(checkpoint_s=1)
    folder = work("timed")
    one = trainer(folder, spec, Regression({CRASH: crash}))
    ticking(monkeypatch, one, 10)
    with pytest.raises(SystemExit):
        one.run()
    assert load_checkpoint(folder).seconds == 10 * CRASH
    another = trainer(folder, spec)
    ticking(monkeypatch, another, 10)
    another.run()
    assert load_checkpoint(folder).seconds == 10 * STEPS


def test_only_the_first_worker_writes(work):
    trainer(work("second"), settings(checkpoint_s=1e-9), rank=1).run()
    assert work("second").names() == []
