"""The learner against a table of known worths, a rerun, and another implementation."""

import importlib.util

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from slimctl.models.steps.double_dqn import DoubleDqn, LearnerState, Lookahead, Replay
from slimctl.models.steps.environment import play
from slimctl.models.steps.q_network import GreedyPolicy, action_basis, initial_network
from slimctl.models.steps.spec import TIME_GRID, DoubleDqnSpec, ThreeBodyProblem
from slimctl.models.steps.three_body_environment import VALIDATION_SEEDS, ThreeBodyEnvironment

GAMMA = 0.9


def small(**changes) -> DoubleDqnSpec:
    fields = {
        "hidden": (32,), "environments": 8, "decisions": 3000, "updates": 2, "batch_size": 32,
        "replay": 3000, "warmup": 100, "learning_rate": 3e-3, "gamma": GAMMA, "target_rate": 0.02,
        "epsilon": (1.0, 1.0), "epsilon_spread": 0.0, "validate_every": 1000,
        "advantage_scale": 1.0, "near": 0.0,
    }  # fmt: skip
    return DoubleDqnSpec.model_validate(fields | changes)


def finished(learner: DoubleDqn) -> DoubleDqn:
    while not learner.done:
        learner.round()
    return learner


@pytest.mark.parametrize("lookahead", [1, 2])
def test_it_learns_the_worths_of_a_table(corridor, corridor_table, lookahead):
    """Sums of two rewards are off-policy, and fall short by what a random second step costs."""
    learner = finished(DoubleDqn(small(lookahead=lookahead), corridor(8, 1), seed=1))
    table = corridor_table()
    with torch.no_grad():
        found = learner.network(torch.eye(6)).numpy()[:-1]
    if lookahead == 1:
        assert np.abs(found - table).max() < 0.1
    assert (found.argmax(axis=1) == table.argmax(axis=1)).all()
    assert (learner.policy()(np.eye(6, dtype=np.float32)[:-1]) == 1).all()


def test_a_potential_leaves_the_best_policy_as_it_is(corridor, corridor_table, monkeypatch):
    """With gamma < 1 too: Q changes by -phi(s), so that every difference of actions is the same.

    Without gamma before phi(s') this one pays 0.6 for standing still, and left becomes the best.
    """
    phi = np.array([6.0, 5.0, 4.0, 3.0, 2.0, 0.0])  # 0 where an episode has ended
    monkeypatch.setattr(corridor, "potential", lambda self: phi[self._place])
    learner = finished(DoubleDqn(small(), corridor(8, 1), seed=1))
    with torch.no_grad():
        found = learner.network(torch.eye(6)).numpy()[:-1]
    assert np.abs(found + phi[:-1, None] - corridor_table()).max() < 0.2


def test_worths_are_means_where_rewards_are_random(corridor, corridor_table):
    """One step in five slips. A loss that is linear from 1 on would be 1 too high here."""
    learner = finished(DoubleDqn(small(), corridor(8, 2, slip=0.2), seed=2))
    table = corridor_table(slip=0.2)
    with torch.no_grad():
        found = learner.network(torch.eye(6)).numpy()[:-1]
    assert abs((found.max(axis=1) - table.max(axis=1)).mean()) < 0.5
    assert (found.argmax(axis=1) == table.argmax(axis=1)).all()


def through_bytes(state: LearnerState) -> LearnerState:
    import json

    return LearnerState(load(save(dict(state.tensors))), json.loads(json.dumps(state.notes)))


@pytest.mark.parametrize("rounds", [5, 83])
def test_a_resumed_learner_is_bit_equal(corridor, rounds):
    spec = small(decisions=1000, lookahead=3, epsilon=(1.0, 0.1), validate_every=100)

    def begin() -> DoubleDqn:
        return DoubleDqn(spec, corridor(8, 5), 5, evaluator=lambda policy: 0.0)

    whole, first = begin(), begin()
    for _ in range(rounds):
        first.round()
    second = DoubleDqn(spec, corridor(8, 99), 99, evaluator=lambda policy: 0.0)
    second.restore(through_bytes(first.state()))
    finished(whole)
    finished(second)
    one, two = whole.state(), through_bytes(second.state())
    assert one.tensors.keys() == two.tensors.keys()
    for name, value in one.tensors.items():
        assert torch.equal(value, two.tensors[name]), name
    assert through_bytes(one).notes == two.notes


def test_three_body_training_resumes_bit_equal():
    problem = ThreeBodyProblem(horizons=(3, 5), actions=(0.03, 0.1, 0.3), hold=1)
    spec = small(decisions=160, warmup=40, epsilon=(1.0, 0.1))

    def begin(seed: int) -> DoubleDqn:
        return DoubleDqn(spec, ThreeBodyEnvironment.training(problem, 8, seed), seed)

    whole, first, second = begin(3), begin(3), begin(4)
    for _ in range(10):
        first.round()
    second.restore(through_bytes(first.state()))
    finished(whole)
    finished(second)
    for name, value in whole.state().tensors.items():
        assert torch.equal(value, second.state().tensors[name]), name


def test_nothing_global_is_drawn_from_or_seeded(corridor):
    torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    finished(DoubleDqn(small(decisions=200), corridor(8, 5), 5))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002


def test_the_best_network_on_validation_is_kept(corridor):
    returns = iter([1.0, 3.0, 2.0])
    seen: list[GreedyPolicy] = []

    def evaluate(policy: GreedyPolicy) -> float:
        seen.append(policy)
        return next(returns)

    spec = small(decisions=900, validate_every=300)
    learner = finished(DoubleDqn(spec, corridor(8, 1), 1, evaluate))
    assert learner.counters.best_return == 3.0
    assert learner.counters.best_at == 600
    probe = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    assert (learner.policy()(probe) == seen[1](probe)).all()


def test_lookahead_sums_rewards_and_stops_at_the_end():
    replay, look = Replay(100, 1), Lookahead(3, 1, 1, gamma=0.5)
    rewards, ends = [1.0, 2.0, 4.0, 8.0, 16.0], [False, False, False, False, True]
    for number, (reward, end) in enumerate(zip(rewards, ends, strict=True)):
        here = np.array([[float(number)]], dtype=np.float32)
        look.push(replay, here, np.array([number]), np.array([reward]), here + 1, np.array([end]))
    held = replay.arrays()
    order = held["choice"][:5].argsort()
    held = {name: value[order] for name, value in held.items() if name != "where"}
    assert held["choice"].tolist() == [0, 1, 2, 3, 4]
    assert held["reward"].tolist() == [3.0, 6.0, 12.0, 16.0, 16.0]
    assert held["discount"].tolist() == [0.125, 0.125, 0.0, 0.0, 0.0]
    assert held["seen_next"][:, 0].tolist() == [3.0, 4.0, 5.0, 5.0, 5.0]


@pytest.mark.parametrize("terms", [1, 2, 4, 9, 50])
def test_the_basis_of_actions(terms):
    basis = action_basis(np.array(TIME_GRID), terms)
    assert basis.shape == (10, min(terms, 9))
    assert basis.T @ basis == pytest.approx(10 * np.eye(basis.shape[1]), abs=1e-9)
    assert basis.mean(axis=0) == pytest.approx(np.zeros(basis.shape[1]), abs=1e-12)
    cost = 1.0 / np.array(TIME_GRID)
    left = cost - cost.mean() - basis @ (basis.T @ cost) / 10
    assert np.abs(left).max() < 1e-9


def test_the_ring_forgets_the_oldest():
    replay = Replay(5, 1)
    for number in range(4):
        values = np.full(2, number, dtype=np.float64)
        seen = values[:, None].astype(np.float32)
        replay.add(seen, values.astype(np.int64), values, seen, values)
    assert sorted(replay.arrays()["choice"].tolist()) == [1, 2, 2, 3, 3]
    drawn = replay.draw(50, np.random.default_rng(0))
    assert set(drawn.choice.tolist()) == {1, 2, 3}


def test_a_policy_does_not_depend_on_the_batch():
    basis = action_basis(np.array(TIME_GRID), 4)
    network = initial_network(7, (64, 64), basis, seed=3)
    policy = GreedyPolicy(network.state_dict())
    seen = np.random.default_rng(0).normal(size=(500, 7)).astype(np.float32)
    together = policy(seen)
    assert (together == np.concatenate([policy(row[None]) for row in seen])).all()
    with torch.no_grad():
        assert (together == network(torch.from_numpy(seen)).argmax(1).numpy()).mean() > 0.99


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(
    not importlib.util.find_spec("stable_baselines3"),
    reason="stable-baselines3 (the extra 'references') is not installed",
)
def test_it_is_as_good_as_stable_baselines3():
    """Short three-body episodes, the same number of decisions, the same validation systems."""
    import gymnasium
    from stable_baselines3 import DQN

    problem = ThreeBodyProblem(horizons=(10,), actions=(1e-3, 1e-2, 3e-2, 1e-1), hold=1)

    class OneSystem(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-20.0, 20.0, (8,), np.float32)
        action_space = gymnasium.spaces.Discrete(4)

        def __init__(self):
            self.many = ThreeBodyEnvironment.training(problem, 1, 7)

        def reset(self, *, seed=None, options=None):
            self.many.restart()
            return self.many.observe()[0], {}

        def step(self, action):
            outcome = self.many.step(np.array([action]))
            end = bool(outcome.ended[0])
            return self.many.observe()[0], float(outcome.reward[0]), end, False, {}

    settings = {"learning_rate": 1e-3, "buffer_size": 20_000, "learning_starts": 500, "gamma": 1.0}
    theirs = DQN("MlpPolicy", OneSystem(), batch_size=128, seed=0, train_freq=4, **settings)
    theirs.learn(16_000)
    ours = finished(
        DoubleDqn(
            small(decisions=16_000, gamma=1.0, hidden=(64, 64), updates=4, batch_size=128,
                  replay=20_000, warmup=500, epsilon=(1.0, 0.1), epsilon_spread=3.0,
                  learning_rate=1e-3),
            ThreeBodyEnvironment.training(problem, 8, 7), 0,
        )
    )  # fmt: skip

    def mean_return(choose) -> float:
        return float(
            play(ThreeBodyEnvironment(problem, VALIDATION_SEEDS, 10), choose).returns.mean()
        )

    reference = mean_return(lambda seen: theirs.predict(seen, deterministic=True)[0])
    assert mean_return(ours.policy()) > reference - 0.1
