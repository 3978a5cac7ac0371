"""The three-body decision process: its rewards add up to what an episode is judged by."""

import numpy as np
import pytest
from pydantic import ValidationError

from slimctl.models.steps.environment import always, excess, holding, logarithm, play
from slimctl.models.steps.spec import PAPER_GRID, FlowProblem, PaperReward, ThreeBodyProblem
from slimctl.models.steps.three_body import Motion, integrate
from slimctl.models.steps.three_body_environment import (
    FAILURE,
    TEST_SEEDS,
    VALIDATION_SEEDS,
    ThreeBodyEnvironment,
)

COARSE = ThreeBodyProblem(actions=(0.03, 0.1, 0.3), hold=1)


def test_rewards_add_up_to_the_judgement():
    """-log10(C / C_0) - 2 phi(D), and -2 where the energy is lost."""
    horizon, generator = 20, np.random.default_rng(0)
    environment = ThreeBodyEnvironment(COARSE, range(30), horizon)

    def choose(seen):
        return generator.integers(0, 3, len(seen))

    played = play(environment, choose)
    motion = environment._motion
    expected = -np.log10((played.cost + horizon) / horizon) - 2.0 * excess(motion.drift, 1e-6)
    expected += FAILURE * (motion.drift > 0.1)
    assert played.returns == pytest.approx(expected, abs=1e-9)
    assert (played.choices >= 0).sum() == motion.interval.sum()


def test_a_fixed_value_is_plain_integration():
    played = play(ThreeBodyEnvironment(COARSE, range(10), 15), always(1))
    error, evaluations = integrate(range(10), 0.1, 15)
    kept = played.error < 0.1
    assert (played.error == error)[kept].all()
    assert (played.cost == evaluations)[kept].all()


def test_a_decision_that_holds_is_the_same_one_again_and_again():
    """Five intervals at a time, the last decision cut short by the end."""
    held = COARSE.model_copy(update={"hold": 5})
    generator = np.random.default_rng(0)
    choices = generator.integers(0, 3, (4, 20))
    rounds = iter(choices)
    together = play(ThreeBodyEnvironment(held, range(20), 18), lambda seen: next(rounds))
    rounds = iter(choices)
    environment = ThreeBodyEnvironment(COARSE, range(20), 18)
    apart = play(environment, holding(lambda seen: next(rounds), 5))
    assert together.choices.shape == (4, 20)
    assert (together.cost == apart.cost).all()
    assert together.returns == pytest.approx(apart.returns)


@pytest.mark.parametrize("hold", [1, 4])
def test_the_guess_is_what_steps_cost_while_the_time_scale_stays(hold):
    problem = ThreeBodyProblem(hold=hold, actions=(0.01, 0.03), horizons=(100,))
    environment = ThreeBodyEnvironment(problem, range(10), 100)
    guess = environment.guess(environment.observe())
    before = environment.potential()
    reward = environment.step(np.ones(10, dtype=np.int64)).reward
    assert guess[:, 1] == pytest.approx(reward + environment.potential() - before, abs=2e-3)
    assert (guess[:, 0] < guess[:, 1]).all()


def test_the_potential_takes_nothing_from_a_return():
    """Summed along an episode its change is minus its value at the start."""
    environment = ThreeBodyEnvironment(COARSE, range(8), 12)
    first, total = environment.potential(), np.zeros(8)
    while not environment.ended.all():
        before = environment.potential()
        environment.step(np.zeros(8, dtype=np.int64))
        total += environment.potential() - before
    assert first.max() < -1.0
    assert total == pytest.approx(-first)


def test_an_episode_that_has_ended_stays_as_it_is():
    problem = COARSE.model_copy(update={"largest_drift": 1e-14})
    environment = ThreeBodyEnvironment(problem, range(4), 50)
    for _ in range(10):
        environment.step(np.full(4, 2))
    before, ended = environment.arrays(), environment.ended.copy()
    assert ended.all()
    outcome = environment.step(np.full(4, 0))
    assert (outcome.reward == 0.0).all()
    assert all((value == before[name]).all() for name, value in environment.arrays().items())


def test_new_episodes_come_from_the_private_generator():
    one = ThreeBodyEnvironment.training(COARSE, 5, seed=1)
    two = ThreeBodyEnvironment.training(COARSE, 5, seed=1)
    for environment in (one, two):
        environment.ended[:3] = True
        environment.restart()
    assert not one.ended.any()
    for name, value in one.arrays().items():
        assert (value == two.arrays()[name]).all(), name
    other = ThreeBodyEnvironment.training(COARSE, 5, seed=2)
    assert (other.arrays()["motion.phase"] != one.arrays()["motion.phase"]).any()
    assert set(one.arrays()["horizon"]) <= set(COARSE.horizons)


def test_training_never_sees_a_system_of_the_tests():
    from slimctl.models.steps import three_body_environment

    drawn = three_body_environment._draw_seeds(np.random.default_rng(0), 10_000)
    assert min(drawn) >= 10_000
    assert max(TEST_SEEDS) < min(VALIDATION_SEEDS) < 10_000


def test_what_is_seen_is_of_order_one():
    environment = ThreeBodyEnvironment.training(COARSE, 50, 0)
    for _ in range(10):
        environment.step(np.random.default_rng(1).integers(0, 3, 50))
        seen = environment.observe()
        assert seen.shape == (50, 8)
        assert seen.dtype == np.float32
        assert np.abs(seen).max() <= 10.0
        environment.restart()
    assert 0.1 < np.abs(seen).mean() < 3.0


def test_the_papers_state_and_reward():
    problem = ThreeBodyProblem(
        state="paper", reward=PaperReward(), actions=PAPER_GRID, horizons=(100,), hold=1
    )
    environment = ThreeBodyEnvironment(problem, [200], 4)
    seen = environment.observe()
    assert seen.shape == (1, 13)
    # x, y of body 0 first, then of the others; their centre of mass is the origin.
    assert seen[0, :2] == pytest.approx([-0.442342747, -0.456336816], abs=1e-6)
    assert seen[0, 0:6:2].sum() == pytest.approx(0, abs=1e-6)
    # Body 0 has (0, 10), body 1 (-10, 0) and body 2 no velocity, km/s, in units of 51.6.
    speeds = np.array([[0, 10], [-10, 0], [0, 0]]) - np.array([-10, 10]) / 3
    assert seen[0, 6:12] == pytest.approx(speeds.flatten() / 51.6, abs=1e-4)
    assert seen[0, 12] == 0.0  # an energy error of 1
    first = environment.step(np.array([9]))
    assert first.reward[0] == 0.0
    reached = -logarithm(environment.error())[0]
    assert environment.observe()[0, 12] == pytest.approx(reached, rel=1e-6)
    second = environment.step(np.array([9]))
    level = logarithm(environment.error())[0]
    expected = -3000.0 * (level + 10.0) / abs(level) ** 3 / 2 + 4.0 / abs(np.log10(0.1))
    assert second.reward[0] == pytest.approx(expected)


@pytest.mark.parametrize("problem", [ThreeBodyProblem, FlowProblem])
@pytest.mark.parametrize("actions", [(0.1, 0.03), (0.1, 0.1), (0.1,), (0.0, 0.1), (-1.0, 0.1)])
def test_a_grid_of_actions_must_rise(problem, actions):
    with pytest.raises(ValidationError):
        problem(actions=actions)


def test_an_unordered_grid_is_shown_in_order():
    with pytest.raises(ValidationError, match=r"0\.03 after 0\.1: the grid must rise\s+fix: write"):
        ThreeBodyProblem(actions=(0.1, 0.03))


def test_a_lost_system_ends_its_episode():
    problem = COARSE.model_copy(update={"max_substeps": 1})
    environment = ThreeBodyEnvironment(problem, [0, 1], 5)
    outcome = environment.step(np.array([0, 0]))
    assert outcome.ended.all()
    assert (outcome.reward < FAILURE).all()
    assert np.isfinite(outcome.reward).all()
    assert isinstance(environment._motion, Motion)
