"""Steps of a flow: the base step's order, costs, batches, and a policy as solver."""

import itertools
import math

import numpy as np
import pytest
import torch

from slimctl.models.flows.analytic import AnalyticFlow
from slimctl.models.flows.flow import Flow
from slimctl.models.solvers.base import solve
from slimctl.models.solvers.runge_kutta import rk23, rms
from slimctl.models.solvers.spec import RK45Spec
from slimctl.models.spec import ImageShape
from slimctl.models.steps.double_dqn import DoubleDqn
from slimctl.models.steps.environment import always, excess, play
from slimctl.models.steps.flow_environment import FlowEnvironment, Noises, known_noises
from slimctl.models.steps.flow_walk import FlowWalk, observation_size, solve_with_policy
from slimctl.models.steps.spec import DoubleDqnSpec, FlowProblem

PROBLEM = FlowProblem(actions=(0.05, 0.1, 0.2, 0.4), reference_tolerance=1e-7)


class Decay(Flow):
    """dx/dt = -3 x, whose solution is x0 exp(-3 t); counts the samples it is asked for."""

    def __init__(self):
        super().__init__(ImageShape(channels=1, size=2))
        self.asked = 0

    def _velocity(self, xt, t, label):
        self.asked += len(xt)
        return -3.0 * xt


@pytest.fixture
def exact():
    """The closed form of eight 4 x 4 images with labels."""
    images = torch.randn((8, 1, 4, 4), generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    return AnalyticFlow(images, torch.arange(8) % 2, classes=2, bandwidth=0.3)


@pytest.fixture
def noises(exact) -> Noises:
    return known_noises(exact, 0, 40, 1e-7, label_counts=(4, 4))


def walked(flow, step, count=3, dtype=torch.float64):
    x0 = torch.randn((count, 1, 2, 2), generator=torch.Generator().manual_seed(1), dtype=dtype)
    walk = FlowWalk(flow, x0.clone(), None)
    while not bool(walk.arrived().all()):
        walk.advance(torch.full((count,), step, dtype=torch.float64))
    return walk, x0 * math.exp(-3.0)


def test_the_base_step_is_of_order_three():
    errors = []
    for step in (0.1, 0.05, 0.025):
        walk, exact = walked(Decay(), step)
        errors.append(float(rms(walk.point.x - exact).max()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders == pytest.approx([3.0, 3.0], abs=0.3)


@pytest.mark.parametrize(("step", "steps"), [(0.5, 2), (0.3, 4), (1.0, 1), (0.1, 10), (0.2, 5)])
def test_every_evaluation_is_counted(step, steps):
    """One to begin, three a step, two in the last."""
    flow = Decay()
    walk, _ = walked(flow, step)
    assert walk.nfe.tolist() == [3 * steps] * 3
    assert flow.asked == 3 * 3 * steps
    assert (walk.point.t == 1.0).all()


def test_the_error_estimate_is_that_of_the_step():
    flow = Decay()
    walk = FlowWalk(flow, torch.ones((1, 1, 2, 2), dtype=torch.float64), None)
    walk.advance(torch.tensor([0.1], dtype=torch.float64))
    true = abs(float(walk.point.x[0, 0, 0, 0]) - math.exp(-0.3))
    assert true < float(walk.error[0]) < 30 * true
    assert float(walk.bend[0]) == pytest.approx(math.exp(0.3) - 1, rel=1e-2)


def test_a_policy_sees_which_steps_end_the_episode_and_what_the_others_leave():
    walk = FlowWalk(Decay(), torch.ones((2, 1, 2, 2), dtype=torch.float64), None)
    walk.advance(torch.tensor([0.75, 0.9], dtype=torch.float64))
    seen = walk.observe(PROBLEM)
    assert seen.shape == (2, observation_size(4))
    assert seen[:, 7:11].tolist() == [[0, 0, 0, 1], [0, 1, 1, 1]]
    left = [[0.2, 0.15, 0.05, 0.01], [0.05, 0.01, 0.01, 0.01]]
    assert seen[:, 11:] == pytest.approx(np.log10(left) + 1.0, abs=1e-6)
    before = walk.nfe.clone()
    walk.advance(torch.full((2,), 0.1, dtype=torch.float64))
    assert walk.arrived().tolist() == [False, True]
    assert (walk.nfe - before).tolist() == [3, 2]


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 1e-6])
def test_rk23_controls_its_error_and_counts_all_steps(exact, noises, tolerance):
    solved = rk23(exact, noises.x0, noises.label, tolerance)
    assert float(rms(solved.x1 - noises.x1).max()) < 30 * tolerance
    assert ((solved.nfe - 2) % 3 == 0).all()
    alone = rk23(exact, noises.x0[5:6], noises.label[5:6], tolerance)
    assert (alone.x1 - solved.x1[5:6]).abs().max() < 1e-5
    assert alone.nfe[0] == solved.nfe[5]


def test_rk23_gives_up(exact, noises):
    with pytest.raises(FloatingPointError, match="have not arrived"):
        rk23(exact, noises.x0, noises.label, 1e-6, max_evaluations=20)


@pytest.mark.parametrize("stretches", [0, 16])
def test_the_potential_changes_no_sum(exact, stretches):
    """It is 0 at the end, so what it adds over an episode is what it was at the start."""
    known = known_noises(exact, 0, 40, 1e-7, label_counts=(4, 4), stretches=stretches)
    environment = FlowEnvironment(PROBLEM, exact, known)
    start = environment.potential()
    assert start == pytest.approx(np.full(40, -1.0)), "ten steps of 0.1 at 3 evaluations"
    generator, added = np.random.default_rng(0), np.zeros(40)
    seen_away = False
    while not environment.ended.all():
        before = environment.potential()
        environment.step(generator.integers(0, 4, 40))
        added += environment.potential() - before
        left = 1.0 - environment._walk.point.t.numpy()
        seen_away |= bool((environment.potential() < -left - 0.01).any())
    assert added == pytest.approx(-start)
    assert seen_away == (stretches > 0)


def test_harm_is_what_a_step_does_and_not_what_it_undoes():
    """Two steps whose errors cancel are each paid for what they did."""

    class Swinging(Flow):
        """dx/dt = a sin(2 pi t): steps of a half end where they began, wrong on the way."""

        def _velocity(self, xt, t, label):
            return 0.0 * xt + torch.sin(2.0 * math.pi * t).to(xt.dtype)[:, None, None, None]

    flow = Swinging(ImageShape(channels=1, size=2))
    known = known_noises(flow, 0, 3, 1e-9, stretches=64)
    environment = FlowEnvironment(
        FlowProblem(actions=(0.25, 0.5), reference_tolerance=1e-7), flow, known
    )
    harms = []
    while not environment.ended.all():
        environment.step(np.ones(3, dtype=np.int64))
        harms.append(environment._harm.copy())
    own = harms[0] ** 0.5
    assert own == pytest.approx(np.full(3, own[0]), rel=1e-3)
    assert own[0] > 1e-3
    assert harms[1] == pytest.approx(2.0 * harms[0], rel=1e-2), "squares add up"
    assert (environment.error() < 0.05 * own).all(), "though the errors cancelled"


def test_rewards_add_up_to_the_judgement(exact, noises):
    environment = FlowEnvironment(PROBLEM, exact, noises)
    generator = np.random.default_rng(0)
    played = play(environment, lambda seen: generator.integers(0, 4, len(seen)))
    error = rms(environment._walk.point.x - noises.x1).numpy()
    assert played.error == pytest.approx(error)
    expected = -(played.cost - 1) / 30.0 - excess(error, PROBLEM.reward.tolerance)
    assert played.returns == pytest.approx(expected)
    assert (played.cost % 3 == 0).all()


def test_small_steps_are_accurate_and_large_ones_are_not(exact, noises):
    errors = [
        float(np.median(play(FlowEnvironment(PROBLEM, exact, noises), always(action)).error))
        for action in range(4)
    ]
    assert errors == sorted(errors)
    assert errors[0] < 1e-4


def policy(seen):
    """Some policy that looks at what it sees."""
    return (np.abs(np.round(7 * seen[:, 2]) + (5 * seen[:, 0]).round()) % 4).astype(np.int64)


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_a_sample_does_not_depend_on_its_batch(exact, noises, batch):
    together = solve_with_policy(PROBLEM, policy, exact, noises.x0, noises.label)
    for first in range(0, 40, batch):
        part = slice(first, first + batch)
        found = solve_with_policy(PROBLEM, policy, exact, noises.x0[part], noises.label[part])
        assert torch.equal(found.nfe, together.nfe[part])
        assert (found.x1 - together.x1[part]).abs().max() < 1e-5
    assert len(set(together.nfe.tolist())) > 1


def test_a_policy_leaves_its_noise_alone(exact, noises):
    before = noises.x0.clone()
    solve_with_policy(PROBLEM, policy, exact, noises.x0, noises.label)
    assert torch.equal(before, noises.x0)


def test_a_flow_that_breaks_is_reported(exact, noises):
    exact.points.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        solve_with_policy(PROBLEM, policy, exact, noises.x0, noises.label)


def test_known_noises_are_the_ends_of_rk45(exact, noises):
    solved = solve(RK45Spec(tolerance=1e-7), exact, noises.x0, noises.label)
    assert torch.equal(solved.x1, noises.x1)
    later = known_noises(exact, 30, 10, 1e-7, label_counts=(4, 4))
    assert torch.equal(later.x0, noises.x0[30:])


def test_new_episodes_and_a_restored_environment(exact, noises):
    spec = DoubleDqnSpec(
        hidden=(8,), environments=6, decisions=200, updates=1, batch_size=16, replay=200, warmup=20,
        validate_every=50,
    )  # fmt: skip

    def begin(seed: int) -> DoubleDqn:
        return DoubleDqn(spec, FlowEnvironment.training(PROBLEM, exact, noises, 6, seed), seed)

    whole, first, second = begin(1), begin(1), begin(2)
    for _ in range(15):
        first.round()
    second.restore(first.state())
    for learner in (whole, second):
        while not learner.done:
            learner.round()
    for name, value in whole.state().tensors.items():
        assert torch.equal(value, second.state().tensors[name]), name


@pytest.mark.slow
def test_a_policy_learns_to_beat_every_fixed_step(exact):
    problem = FlowProblem(reference_tolerance=1e-6)
    training = known_noises(exact, 10_000, 256, 1e-6, label_counts=(4, 4))
    test = known_noises(exact, 0, 200, 1e-6, label_counts=(4, 4))
    spec = DoubleDqnSpec(
        hidden=(64, 64), environments=64, decisions=30_000, updates=16, warmup=1000, near=0.3
    )
    learner = DoubleDqn(spec, FlowEnvironment.training(problem, exact, training, 64, 0), 0)
    while not learner.done:
        learner.round()
    learned = play(FlowEnvironment(problem, exact, test), learner.policy()).returns.mean()
    fixed = max(
        play(FlowEnvironment(problem, exact, test), always(action)).returns.mean()
        for action in range(len(problem.actions))
    )
    assert learned > fixed
