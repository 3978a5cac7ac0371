"""The memory of a training against two steps of the loop on FakeTensors."""

import pytest
import torch
from fake_memory import fake_bytes

from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.kinds.match_distribution import MatchDistribution
from slimctl.jobs.kinds.train_flow import TrainFlow
from slimctl.jobs.training.distances import LPIPSDistance
from slimctl.jobs.training.loop import Trainer
from slimctl.jobs.training.objective import WHOLE, Objective, ScoreNetwork, Share
from slimctl.models.critics import Critic
from slimctl.models.flows.flow import NetworkFlow
from slimctl.models.flows.path import interpolate
from slimctl.models.losses import (
    flow_matching_loss,
    matching_gradient,
    matching_loss,
    one_step_loss,
    squared_distance,
    two_step_target,
    velocity_error,
)
from slimctl.models.networks.registry import parse_network
from slimctl.models.networks.size import network_size
from slimctl.models.perceptual.lpips import LPIPS
from slimctl.models.spec import ImageShape

CPU = torch.device("cpu")
IMAGE = ImageShape(channels=3, size=16)
ONE = Cluster(cpus=1)
STUDENT = {"kind": "song_unet", "channels": 32, "channel_multipliers": [1, 2], "blocks": 1}
ADM = {"kind": "adm", "channels": 32, "channel_multipliers": [1, 2], "blocks": 1}
GUIDE = {"kind": "song_unet", "channels": 48, "channel_multipliers": [1, 1], "blocks": 1}


def images(count):
    return torch.empty(count, IMAGE.channels, IMAGE.size, IMAGE.size)


class Step(Objective):
    """The computations of a kind of training on tensors without numbers."""

    def __init__(self, kind, batch):
        self.kind, self.batch = kind, batch

    def prepare(self, share):
        guide = parse_network(GUIDE).build(IMAGE).eval().requires_grad_(requires_grad=False)
        self.guide = NetworkFlow(guide, IMAGE)
        if self.kind == "match":
            fake = NetworkFlow(parse_network(GUIDE).build(IMAGE), IMAGE)
            self.critic = Critic(fake)
        self.distance = squared_distance
        if self.kind == "lpips":
            self.distance = LPIPS(64).requires_grad_(False)

    def score_network(self):
        return ScoreNetwork(self.critic, 1, 1.0) if self.kind == "match" else None

    def score_network_loss(self, score_network, network, step, update, part=WHOLE):
        x0, t = images(self.batch), torch.empty(self.batch)
        with torch.no_grad():
            x = x0 + network(x0, t, None)
        return velocity_error(score_network(interpolate(x0, x, t), t, None)[0], x0, x).mean()

    def loss(self, network, step, part=WHOLE):
        x0, x1, t = images(self.batch), images(self.batch), torch.empty(self.batch)
        if self.kind == "flow":
            return flow_matching_loss(network, x0, x1, t).mean()
        if self.kind == "match":
            x = x0 + network(x0, t, None)
            flows = self.guide.velocity, self.critic.velocity
            return matching_loss(x, matching_gradient(*flows, x.detach(), x0, t)).mean()
        u = network(torch.cat((x0, images(self.batch))), torch.empty(2 * self.batch), None)
        pair = one_step_loss(u[: self.batch], x0, x1, self.distance).mean()
        target = two_step_target(self.guide, u[self.batch :].detach(), x0, t)
        return pair + one_step_loss(u[self.batch :], x0, target, self.distance).mean()


def spec_of(kind, network, batch):
    fields = {"steps": 2, "batch_size": batch, "precision": "float32", "workers": 1, "seed": 0}
    if kind == "flow":
        return TrainFlow(data="d", network=network, **fields)
    if kind == "match":
        return MatchDistribution(teacher="t", data="d", network=network, fake_updates=1, **fields)
    distance = LPIPSDistance(weights="w", linear="l") if kind == "lpips" else {"kind": "l2"}
    return Distill(pairs="p", guide="g", network=network, distance=distance, **fields)


def facts(network):
    known = {name: Facts(image=IMAGE, network=parse_network(GUIDE)) for name in ("g", "t")}
    both = {"guide": known["g"], "teacher": known["t"]}
    return {**both, "data": Facts(image=IMAGE), "pairs": Facts(image=IMAGE)}


@pytest.mark.parametrize(
    ("kind", "network", "batch", "again"),
    [
        ("flow", STUDENT, 2, False),
        ("flow", STUDENT, 24, False),
        ("flow", ADM, 8, False),
        ("distill", STUDENT, 8, False),
        ("lpips", STUDENT, 4, False),
        ("match", STUDENT, 8, False),
        ("match", ADM, 2, False),
        ("flow", ADM, 24, True),
    ],
)
def test_a_training_takes_what_fake_tensors_take(store, monkeypatch, kind, network, batch, again):
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_, **__: module)
    update = {"checkpoint_activations": again}
    spec = spec_of(kind, network, batch).model_copy(update=update)

    def prepare():
        made = Trainer(
            spec, parse_network(network).build(IMAGE).train(), Step(kind, batch),
            Share(0, batch, batch, CPU), store.work("x"), lambda *_: None,
            recompute=again,
        )  # fmt: skip
        made._prepare()
        model = made._distribute()

        def steps():
            made._advance(model)
            return made._advance(model)

        return steps

    wanted = fake_bytes(prepare, backward=None, counts_all=True)
    found = spec.memory(facts(network), ONE, None)
    own = 4 * network_size(parse_network(network), IMAGE).parameters
    copies = 2 * own if kind == "match" else 0  # to score the student, which is not done here
    assert found.total - copies == pytest.approx(wanted, rel=0.15)
    assert found.samples == found.share == batch
    assert (found.parts["weights"], found.parts["moments"]) == (own, 2 * own)


def test_micro_batches_are_halved_until_the_estimate_fits():
    spec = spec_of("flow", STUDENT, 64).model_copy(update={"checkpoint_activations": False})
    known = facts(STUDENT)
    whole = spec.memory(known, ONE, None)
    some = spec.memory(known, ONE, whole.total // 3)
    assert some.total <= whole.total // 3 < spec.memory(known, ONE, some.total).total * 3
    assert (some.samples, some.share) == (16, 64)
    assert some.lasting == whole.lasting
    least = spec.memory(known, ONE, whole.lasting)
    assert (least.samples, least.fits(whole.lasting)) == (1, False)
    asked = spec.model_copy(update={"micro_batch": 5}).memory(known, ONE, None)
    assert asked.samples == 5
    assert asked.total < whole.total / 4


def test_workers_share_the_batch_and_hold_what_they_exchange():
    spec = spec_of("flow", STUDENT, 256).model_copy(update={"workers": "auto"})
    one, four = (spec.memory(facts(STUDENT), Cluster(8, gpus=n), None) for n in (1, 4))
    assert (one.share, four.share) == (256, 64)
    assert four.parts["exchange"] == four.parts["weights"]
    assert one.parts["exchange"] == 0
    assert four.parts["activations"] < one.parts["activations"] / 3


def test_images_pairs_and_samplers_are_counted():
    data = Facts(image=IMAGE, count=1000, network=parse_network(STUDENT))
    flow = spec_of("flow", STUDENT, 4).memory({"data": data}, ONE, None)
    assert flow.parts["data"] == 1000 * 3 * 16 * 16
    student = AnnealReflow(pairs="p", network=STUDENT, steps=1, batch_size=4)
    assert student.memory({"pairs": data}, ONE, None).parts["data"] == 6 * flow.parts["data"]
    pairs = GeneratePairs(flow="f", count=100, shard_size=100, batch_size=50)
    quality = Evaluate(model="m", data="d", features="f", batch_size=50)
    made = pairs.memory({"flow": data}, ONE, None)
    assert made == quality.memory({"model": data}, ONE, None)
    assert set(made.parts) == {"weights", "activations"}
    assert pairs.memory({"flow": Facts()}, ONE, None) is None
    guided = pairs.memory({"flow": data, "weaker": data}, ONE, None)
    assert guided.parts["weights"] == 2 * made.parts["weights"]
    assert guided.parts["activations"] == made.parts["activations"]


def test_blocks_are_computed_again_where_few_samples_would_fit():
    spec, known = spec_of("flow", STUDENT, 256), facts(STUDENT)
    whole = spec.memory(known, ONE, None)
    assert not whole.recomputes
    assert not spec.memory(known, ONE, whole.total).recomputes
    limit = whole.lasting + (whole.total - whole.lasting) // 5  # 51 samples
    again = spec.memory(known, ONE, limit)
    assert (again.recomputes, again.samples) == (True, 128)
    never = spec.model_copy(update={"checkpoint_activations": False}).memory(known, ONE, limit)
    assert (never.recomputes, never.samples) == (False, 32)
    assert never.remedies == ("checkpoint_activations: true",)
    always = spec.model_copy(update={"checkpoint_activations": True}).memory(known, ONE, None)
    assert always.recomputes
    assert always.total < 0.7 * whole.total


def test_workers_that_split_networks_hold_a_part_of_each():
    spec = spec_of("match", STUDENT, 256).model_copy(update={"workers": 4})
    known, cluster = facts(STUDENT), Cluster(8, gpus=4)
    whole = spec.memory(known, cluster, None)
    split = spec.model_copy(update={"shard": "full"}).memory(known, cluster, None)
    assert (whole.sharded, split.sharded) == (False, True)
    for part in ("weights", "gradients", "moments", "average", "score network", "frozen networks"):
        assert split.parts[part] == pytest.approx(whole.parts[part] / 4, rel=1e-3)
    assert 0 < split.parts["exchange"] < whole.parts["exchange"]
    alone = spec_of("match", STUDENT, 256).model_copy(update={"shard": "full"})
    assert not alone.memory(known, Cluster(8, gpus=1), None).sharded


def test_networks_are_split_where_one_device_does_not_hold_them():
    spec, known, cluster = spec_of("flow", STUDENT, 256), facts(STUDENT), Cluster(8, gpus=4)
    four = spec.model_copy(update={"workers": 4})
    whole = four.memory(known, cluster, None)
    assert not four.memory(known, cluster, whole.total).sharded
    found = four.memory(known, cluster, whole.lasting)
    assert found.sharded
    assert found.fits(whole.lasting)
    none = four.model_copy(update={"shard": "none"}).memory(known, cluster, whole.lasting)
    assert (none.sharded, none.fits(whole.lasting)) == (False, False)
    assert none.remedies[-1] == "shard: full"
    alone = Cluster(8, gpus=1)
    one = spec.memory(known, alone, spec.memory(known, alone, None).lasting)
    assert one.remedies[-1] == "shard: full and workers: 2"
    hopeless = spec.memory(known, cluster, 1000)
    assert "shard" not in "".join(hopeless.remedies)
