"""Students that are slimmer copies of a teacher: their weights, what they predict, one step."""

import builders
import pytest
import torch
from pydantic import ValidationError

from slimctl.jobs.base.artifacts import Flow
from slimctl.jobs.base.facts import Facts
from slimctl.jobs.base.keys import content_of
from slimctl.jobs.base.refs import iter_refs
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.kinds.consistency import Consistency
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.kinds.generate_pairs import GeneratePairs
from slimctl.jobs.kinds.match_distribution import MatchDistribution
from slimctl.jobs.storage.flows import open_flow, open_network
from slimctl.models.flows.denoising import DiffusionFlow, make_flow, noise_levels
from slimctl.models.flows.parameterisation import DiscreteVPSchedule, Parameterisation
from slimctl.models.flows.path import interpolate
from slimctl.models.flows.student import StudentFlow
from slimctl.models.losses import flow_matching_loss
from slimctl.models.networks.registry import parse_network
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.solvers.spec import EulerSpec
from slimctl.models.spec import ImageShape

CPU = torch.device("cpu")
HOW = Parameterisation(prediction="noise", schedule=DiscreteVPSchedule())
WIDE = {**builders.NETWORK, "channels": 8, "blocks": 2}
SHORT = {"steps": 1, "batch_size": 4, "seed": 0, "learning_rate": 1e-12, "gradient_clip": None}


def reflow(**network):
    return AnnealReflow.model_validate(
        {"pairs": "p", "network": {"slim_of": "t", **network}, **SHORT}
    )


@pytest.fixture
def pairs(run_job, make_model):
    def make(teacher):
        solver = EulerSpec(steps=1)
        asked = GeneratePairs(flow="f", count=4, shard_size=4, solver=solver, seed=0)
        return run_job(asked, flow=teacher)

    return make


def test_a_slim_network_names_its_teacher_and_is_in_the_key():
    spec = reflow(width=0.5)
    assert {ref.job for _, ref in iter_refs(spec)} == {"p", "t"}
    assert AnnealReflow.model_validate(spec.model_dump(mode="json")) == spec
    content = content_of(spec, {"p": "pairs-1", "t": "flow-1"})
    assert content["slim_of"] == {"input": "flow-1"}
    assert content["network"] == {"kind": "slim", "width": 0.5, "depth": 1, "start": "slice"}
    whole = AnnealReflow(pairs="p", network=builders.NETWORK, steps=1)
    assert "slim_of" not in content_of(whole, {"p": "pairs-1"})
    with pytest.raises(ValidationError, match="a slim network names its teacher"):
        AnnealReflow.model_validate({"pairs": "p", "network": {"kind": "slim"}, "steps": 1})


def test_what_a_student_will_be_is_known_before_it_runs(refused):
    image, network = ImageShape(channels=1, size=4), parse_network(WIDE)
    teacher = Facts(image, flow=HOW, network=network)
    inputs = {"pairs": Facts(image, 10), "slim_of": teacher}
    made = reflow(width=0.5, depth=0.5).expect(inputs)
    assert made.network == network.model_copy(update={"channels": 4, "blocks": 1})
    assert made.flow == HOW
    assert reflow(width=0.5).work(inputs).parameters < reflow().work(inputs).parameters
    copied = refused(reflow(width=0.5, start="copy"), **inputs)
    assert copied.what.startswith("start copy takes whole layers")
    no_family = Facts(image, flow=HOW, network=parse_network({"kind": "mlp"}))
    assert "cannot be slimmed" in refused(reflow(), pairs=Facts(image), slim_of=no_family).what
    other = Facts(image.model_copy(update={"size": 8}), network=network)
    assert "'t' is of 8 x 8 x 1" in refused(reflow(), pairs=Facts(image), slim_of=other).what
    closed = refused(reflow(), pairs=Facts(image), slim_of=Facts(image, closed_form=True))
    assert "has no network" in closed.what
    lines = {"data": "d", "network": {"slim_of": "t"}, "steps": 1}
    wrong = refused(Consistency.model_validate(lines), data=Facts(image), slim_of=teacher)
    assert "'t' predicts noise, and this student a velocity" in wrong.what


@pytest.mark.parametrize("start", ["slice", "copy", "random"])
def test_a_student_begins_as_a_part_of_its_teacher(run_job, store, make_model, pairs, start):
    teacher = make_model(Flow, **{k: v for k, v in WIDE.items() if k != "kind"})
    student = run_job(reflow(depth=0.5, start=start), pairs=pairs(teacher), slim_of=teacher)
    own = open_network(store, student, CPU).state_dict()
    wide = open_network(store, teacher, CPU).state_dict()
    assert student.parameters < teacher.parameters
    near = torch.allclose(own["stem.weight"], wide["stem.weight"], atol=1e-6)
    last = torch.allclose(
        own["up.0.blocks.1.conv_in.weight"], wide["up.0.blocks.2.conv_in.weight"], atol=1e-6
    )
    assert near == last == (start != "random")


def test_a_student_of_a_latent_teacher_predicts_what_it_does_and_takes_one_step(
    run_job, store, latent_teacher, pairs
):
    made = pairs(latent_teacher)
    student = run_job(reflow(width=0.5, depth=0.5), pairs=made, slim_of=latent_teacher)
    assert student.prediction == latent_teacher.prediction == "noise"
    assert (student.null_class, student.autoencoder) == (None, latent_teacher.autoencoder)
    assert 0 < student.parameters < latent_teacher.parameters / 2
    whole = run_job(reflow(), pairs=made, slim_of=latent_teacher)
    asked = Distill(pairs="p", start="s", two_step_weight=0.0, **SHORT)
    one_step = run_job(asked, pairs=made, start=whole)
    x0, label = torch.randn(2, 4, 8, 8), torch.tensor([1, 4])
    teacher = open_flow(store, latent_teacher, CPU)
    image = teacher.denoise(teacher.sigma_max * x0, torch.full((2,), teacher.sigma_max), label)
    network = open_network(store, one_step, CPU)
    found = x0 + network(x0, torch.zeros(2), label)
    assert torch.allclose(found, image, rtol=1e-3, atol=1e-3 * float(image.abs().max()))


def test_the_loss_of_a_network_that_predicts_noise_is_that_of_its_answer():
    image = ImageShape(channels=1, size=4)
    torch.manual_seed(0)
    network = SongUNetSpec(channels=4, channel_multipliers=(1,), blocks=1).build(image)
    x0, x1, t = torch.randn(3, 1, 4, 4), torch.rand(3, 1, 4, 4), torch.tensor([0.05, 0.5, 0.9])
    student = StudentFlow(HOW, image, CPU)
    found = student.in_units(flow_matching_loss(student.of(network), x0, x1, t), t)
    levels, sigma = noise_levels(HOW.schedule), (1.0 - t.double()) / t.double()
    scaled = (levels.scale(sigma) * (1.0 + sigma)).float()[:, None, None, None]
    answer = network(scaled * interpolate(x0, x1, t), levels.time(sigma).float(), None)
    assert torch.allclose(found, (answer - x0).square().mean((1, 2, 3)), rtol=1e-4)
    assert isinstance(make_flow(network, image, HOW), DiffusionFlow)
    plain = StudentFlow(Parameterisation(), image, CPU)
    assert plain.of(network) is network
    assert torch.equal(plain.in_units(found, t), found)


def test_a_start_that_predicts_noise_begins_at_its_highest_level(make_model, commit):
    image = ImageShape(channels=1, size=4)
    start = Facts(image, flow=HOW, network=parse_network(WIDE), made="Flow")
    asked = MatchDistribution(teacher="t", start="s", data="d", steps=1)
    inputs = {"teacher": start, "start": start, "data": Facts(image, 10)}
    made = asked.expect(inputs)
    assert made.network.sigma == pytest.approx(HOW.levels()[1])
    lower = asked.model_copy(update={"sigma_init": 2.5}).expect(inputs)
    assert lower.network.sigma == 2.5
