"""Two gloo processes that split their networks, against one, and against two that do not."""

import pytest
import torch
from builders import NETWORK
from gloo import on_gloo
from torch.nn import functional

from slimctl.jobs.base.errors import Preempted
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.training.checkpoint import load_checkpoint
from slimctl.jobs.training.draws import Draws
from slimctl.jobs.training.final_errors import noted_final_errors
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import WHOLE, Objective, ScoreNetwork, Share
from slimctl.models.networks.registry import parse_network
from slimctl.models.sharding import is_in_parts, mesh_of
from slimctl.models.spec import ImageShape

pytestmark = pytest.mark.usefixtures("written_at_once")
CPU = torch.device("cpu")
IMAGE = ImageShape(channels=1, size=4)
BATCH, STEPS = 8, 6
SPEC = TrainFlow.model_validate(
    {"data": "d", "network": NETWORK, "steps": STEPS, "batch_size": BATCH, "seed": 1,
     "learning_rate": 1e-2, "log_every": 2, "checkpoint_s": 1e9, "micro_batch": 2}
)  # fmt: skip


class Pursuit(Objective):
    """A U-Net that makes noise of noise, one that pursues it, and scores that fall and rise."""

    def prepare(self, share):
        self.share, self.draws = share, Draws(2, share, IMAGE)
        torch.manual_seed(3)
        self.pursuer = parse_network(NETWORK).build(IMAGE).train()

    def score_network(self):
        return ScoreNetwork(self.pursuer, 1, 0.5)

    def score_network_loss(self, score_network, network, step, update, part=WHOLE):
        draws = self.draws.of(part)
        x0 = draws.noise(step)
        with torch.no_grad():
            made = network(x0, torch.zeros(len(x0)), None)
        return draws.weighted(
            functional.mse_loss(score_network(x0, torch.zeros(len(x0)), None), made)
        )

    def loss(self, network, step, part=WHOLE):
        draws = self.draws.of(part)
        x0 = draws.noise(step)
        made = network(x0, torch.zeros(len(x0)), None)
        with torch.no_grad():
            pursued = self.pursuer(x0, torch.zeros(len(x0)), None)
        return draws.weighted(functional.mse_loss(made, torch.roll(x0, 1, -1) + 0.1 * pursued))

    def score_every(self):
        return 2

    def score(self, network):
        assert all(is_in_parts(each) for each in network.parameters()) == bool(self.share.mesh)
        found = float(network(torch.ones(2, 1, 4, 4), torch.zeros(2), None).square().mean())
        return found if self.share.rank == 0 else None

    def final_errors(self, averaged):
        network = averaged()
        with torch.no_grad():
            yield {"size": network(torch.ones(2, 1, 4, 4), torch.zeros(2), None).flatten(1).sum(1)}


def train(folder, rank=0, world=1, splits=False, stop_at=None, leaving=str, spec=SPEC, again=False):
    torch.manual_seed(0)
    network = parse_network(NETWORK).build(IMAGE)
    share = Share(
        rank * BATCH // world, BATCH // world, BATCH, CPU, mesh_of(world, CPU) if splits else None
    )
    made = Trainer(
        spec, network, Pursuit(), share, folder, lambda *_: None, rank, world,
        leaving=lambda: leaving() if rank == 0 else "", settle=True, recompute=again,
    )  # fmt: skip
    if stop_at is not None:
        advance = made._advance

        def stops(model):
            if made.step == stop_at:
                raise SystemExit
            return advance(model)

        made._advance = stops
    made.run()
    return made


def assert_alike(found, wanted):
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


@pytest.fixture
def work(store):
    return lambda name: store.work(f"train_flow-{name}")


@pytest.fixture
def alone(work):
    train(work("alone"))
    return load_checkpoint(work("alone")).tensors


@pytest.mark.parametrize("again", [False, True])
def test_two_workers_with_halves_train_what_one_does(work, tmp_path, alone, again):
    def halves(rank):
        made = train(work("halves"), rank, 2, splits=True, again=again)
        held = sum(each.to_local().numel() for each in made.network.parameters())
        every = sum(each.numel() for each in made.network.parameters())
        assert held < 0.6 * every
        assert all(is_in_parts(each) for each in made.companions[0]._network.parameters())
        moments = made.optimizer.state.values()
        assert all(is_in_parts(each["exp_avg"]) for each in moments)

    assert on_gloo(tmp_path, halves) == ["", ""]
    found = load_checkpoint(work("halves")).tensors
    assert {"best.head.weight", "score.best"} <= set(found)
    assert_alike(found, alone)
    errors = [noted_final_errors(work(name)) for name in ("halves", "alone")]
    assert errors[0]["size"] == pytest.approx(errors[1]["size"], rel=1e-4)
    assert errors[0]["size_of"] == 2 * errors[1]["size_of"]


def test_a_training_resumes_bit_for_bit_and_with_any_number_of_workers(work, tmp_path, alone):
    often = SPEC.model_copy(update={"checkpoint_s": 1e-9})

    def cut(rank):
        train(work("whole"), rank, 2, splits=True)
        with pytest.raises(SystemExit):
            train(work("same"), rank, 2, splits=True, stop_at=3, spec=often)
        if rank == 0:
            for name in work("same").names():
                for copy in ("one", "other"):
                    work(copy).write(name, work("same").read(name))
        torch.distributed.barrier()
        train(work("same"), rank, 2, splits=True)
        train(work("other"), rank, 2)

    assert on_gloo(tmp_path, cut) == ["", ""]
    assert load_checkpoint(work("one")).step == 3
    train(work("one"))
    whole, same, one, other = (
        load_checkpoint(work(name)).tensors for name in ("whole", "same", "one", "other")
    )
    assert all(torch.equal(value, same[name]) for name, value in whole.items())
    assert_alike(one, alone)
    assert_alike(other, alone)


def test_all_workers_leave_with_a_checkpoint_when_the_first_has_to(work, tmp_path):
    def leave(rank):
        asked = iter(["", "", "SIGTERM came"])
        with pytest.raises(Preempted, match="SIGTERM came: a checkpoint of step 3"):
            train(work("left"), rank, 2, splits=True, leaving=lambda: next(asked))

    assert on_gloo(tmp_path, leave) == ["", ""]
    assert load_checkpoint(work("left")).step == 3
