"""The integrators against a published table, orders of convergence, two bodies, IAS15 and numba."""

import importlib.util
import math
import subprocess
import sys

import numpy as np
import pytest

from slimctl.models.steps.three_body import (
    INTERVAL,
    YEAR,
    Bodies,
    Method,
    Motion,
    advance,
    closest_pair,
    energy,
    evaluations_per_step,
    forces,
    initial_bodies,
    integrate,
)


def test_the_papers_system_200():
    bodies = initial_bodies([200])
    assert energy(bodies.masses, bodies.phase)[0] == pytest.approx(-0.0101706206, abs=2e-10)
    assert bodies.phase[:2, 0, 0] == pytest.approx([-4.42342747, -4.56336816], abs=1e-8)
    assert np.abs(bodies.phase.mean(axis=1)).max() < 1e-14
    drawn = np.random.RandomState(200).uniform(size=4)
    first = bodies.phase[:2, 1, 0] - bodies.phase[:2, 0, 0]
    assert first == pytest.approx([5 + 15 * drawn[0], 10 * drawn[1]])
    second = bodies.phase[:2, 2, 0] - bodies.phase[:2, 0, 0]
    assert second == pytest.approx([-10 * drawn[2], 5 + 15 * drawn[3]])


def test_forces_are_the_gradient_of_the_energy():
    bodies = initial_bodies([3])
    rates, _ = forces(bodies.masses, bodies.phase)
    for body in range(3):
        for axis in range(2):
            shifted = [bodies.phase.copy(), bodies.phase.copy()]
            for sign, phase in zip((1, -1), shifted, strict=True):
                phase[axis, body, 0] += sign * 1e-5
            high, low = (energy(bodies.masses, phase)[0] for phase in shifted)
            pull = -(high - low) / 2e-5 / bodies.masses[body, 0]
            assert rates[axis, body, 0] == pytest.approx(pull, abs=1e-9)


def test_jerk_is_the_rate_of_the_acceleration():
    bodies = initial_bodies([3])
    rates, _ = forces(bodies.masses, bodies.phase)
    ahead, behind = bodies.phase.copy(), bodies.phase.copy()
    ahead[:2] += 1e-5 * bodies.phase[2:]
    behind[:2] -= 1e-5 * bodies.phase[2:]
    slope = (forces(bodies.masses, ahead)[0][:2] - forces(bodies.masses, behind)[0][:2]) / 2e-5
    assert rates[2:] == pytest.approx(slope, abs=1e-10)


def test_the_time_scale_is_the_shortest_of_all_pairs():
    bodies = initial_bodies(range(5))
    _, scale = forces(bodies.masses, bodies.phase)
    for number in range(5):
        found = []
        for i, j in ((0, 1), (1, 2), (2, 0)):
            apart = bodies.phase[:, j, number] - bodies.phase[:, i, number]
            r, v = np.hypot(*apart[:2]), np.hypot(*apart[2:])
            found += [r / v, math.sqrt(r / ((2 / 3) / r**2))]
        assert scale[number] == pytest.approx(min(found))
    distance, _ = closest_pair(bodies.phase)
    assert distance.shape == (5,)


def kepler(mass_ratio=1e-12) -> Bodies:
    """Two bodies on a circle of radius 1 about their centre, and a speck far away."""
    masses = np.array([[0.5], [0.5], [mass_ratio]])
    speed = math.sqrt(0.5 / (2 * 1.0) / 1.0 * 0.5)
    phase = np.zeros((4, 3, 1))
    phase[0, :2, 0] = (1.0, -1.0)
    phase[3, :2, 0] = (speed, -speed)
    phase[0, 2, 0] = 1e4
    return Bodies(masses, phase)


@pytest.mark.parametrize(
    ("integrator", "order"), [("hermite", 4), ("leapfrog", 2), ("yoshida4", 4)]
)
def test_order_of_convergence_on_two_bodies(integrator, order):
    """Positions against the circle that the two bodies run on."""
    errors = []
    for mu in (0.04, 0.02):
        motion = Motion.start(kepler())
        advance(motion, mu, 5, Method(integrator, "fixed"))
        speed = kepler().phase[3, 0, 0]
        angle = speed * motion.time[0]
        errors.append(np.hypot(*(motion.phase[:2, 0, 0] - [math.cos(angle), math.sin(angle)])))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.4)


TABLE = [(1e-1, 1e-3, 500), (2.2e-2, 5e-7, 2400), (4.6e-3, 3e-10, 11_000)]


def test_the_table_of_hermite_errors():
    """Medians over the seeds 0..99 and 30 yr, within a factor 3; the slope of an order 4 to 5."""
    found = []
    for mu, expected, steps in TABLE:
        error, evaluations = integrate(seeds=range(100), mu=mu, intervals=300, integrator="hermite")
        assert error.shape == evaluations.shape == (100,)
        assert expected / 3 < np.median(error) < 3 * expected
        assert np.median(evaluations - 300) == pytest.approx(steps, rel=0.1)
        found.append(np.median(error))
    slope = math.log(found[0] / found[2]) / math.log(TABLE[0][0] / TABLE[2][0])
    assert 4.0 < slope < 5.5


RUN_ALL = """
import sys
if sys.argv[1] == "interpreted":
    sys.modules["numba"] = None
import numpy as np
from slimctl.models.steps.three_body import Method, Motion, advance
for integrator in ("hermite", "leapfrog", "yoshida4"):
    for control in ("time_scale", "fixed"):
        motion = Motion.of_seeds([1, 2, 3, 52])
        for mu in (0.1, np.array([0.05, 0.1, 0.03, 0.2])):
            advance(motion, mu, 2, Method(integrator, control, max_substeps=1000))
        for name, value in motion.arrays().items():
            print(integrator, control, name, value.tobytes().hex())
"""


@pytest.mark.skipif(not importlib.util.find_spec("numba"), reason="the extra 'fast' is missing")
def test_the_compiled_functions_agree_with_python_to_the_bit():
    both = [
        subprocess.run([sys.executable, "-c", RUN_ALL, how], capture_output=True, check=True).stdout
        for how in ("compiled", "interpreted")
    ]
    assert both[0].count(b"\n") == 60
    assert both[0] == both[1]


def test_a_system_does_not_depend_on_those_beside_it():
    together = Motion.of_seeds(range(6))
    advance(together, 0.05, 20)
    for number in range(6):
        alone = Motion.of_seeds([number])
        for _ in range(20):
            advance(alone, 0.05, 1)
        for name, value in alone.arrays().items():
            assert np.array_equal(value[..., 0], together.arrays()[name][..., number]), name


def test_time_carries_over_from_one_interval_to_the_next():
    motion = Motion.of_seeds(range(20))
    advance(motion, 0.05, 50)
    assert (motion.interval == 50).all()
    behind = 50 * INTERVAL - motion.time
    assert np.abs(behind).max() < 0.5 * 0.05 * 40
    assert np.abs(behind).max() > 1e-6


def test_evaluations_are_steps_and_one_per_interval():
    motion = Motion.of_seeds([0])
    advance(motion, 0.1 * YEAR / 4, 3, Method("hermite", "fixed"))
    assert motion.evaluations[0] == 3 * (4 + 1)
    motion = Motion.of_seeds([0])
    advance(motion, 0.1 * YEAR / 4, 3, Method("yoshida4", "fixed"))
    assert motion.evaluations[0] == 3 * (4 * evaluations_per_step("yoshida4") + 1)


def test_a_runaway_is_given_up():
    motion = Motion.of_seeds([0, 1])
    advance(motion, np.array([1e-4, 0.1]), 3, Method(max_substeps=100))
    assert motion.lost.tolist() == [True, False]
    assert np.isinf(motion.drift[0])
    assert motion.evaluations[0] == 101
    before = motion.arrays()["phase"].copy()
    advance(motion, 0.1, 1)
    assert np.array_equal(motion.phase[..., 0], before[..., 0])
    assert motion.interval.tolist() == [1, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.masses.__setitem__((1, 0), 0.0), "mass of 0: every mass must be above zero"),
        (lambda b: b.masses.__setitem__((1, 1), -1.0), "system 1 has a mass of -1"),
        (lambda b: b.phase.__setitem__((slice(2), 1, 1), b.phase[:2, 0, 1]), "0 and 1 of system 1"),
        (lambda b: b.phase.__setitem__((0, 0, 0), np.nan), "finite"),
    ],
)
def test_systems_that_cannot_be_integrated(change, message):
    bodies = initial_bodies([0, 1])
    change(bodies)
    with pytest.raises(ValueError, match=message):
        integrate(bodies=bodies)


@pytest.mark.parametrize("wrong", [{"mu": 0.0}, {"mu": -1.0}, {"intervals": 0}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="above 0"):
        integrate(seeds=[0], **wrong)


def test_seeds_or_bodies():
    with pytest.raises(ValueError, match="either"):
        integrate()
    with pytest.raises(ValueError, match="legacy"):
        integrate(seeds=[-1])


@pytest.mark.skipif(not importlib.util.find_spec("rebound"), reason="rebound is not installed")
@pytest.mark.filterwarnings("ignore")
def test_ias15_agrees_where_systems_are_not_chaotic():
    """Positions after 10 yr; in a chaotic system every rounding grows, so not all can agree."""
    import rebound

    bodies, apart = initial_bodies(range(10)), []
    motion = Motion.start(bodies)
    advance(motion, 2e-3, 100)
    for number in range(10):
        simulation = rebound.Simulation()
        simulation.integrator = "ias15"
        for body in range(3):
            x, y, vx, vy = bodies.phase[:, body, number]
            simulation.add(m=bodies.masses[body, number], x=x, y=y, vx=vx, vy=vy)
        simulation.integrate(motion.time[number])
        found = np.array([(p.x, p.y) for p in simulation.particles]).T
        apart.append(np.abs(found - motion.phase[:2, :, number]).max())
    assert np.median(apart) < 1e-6
    assert sum(each < 1e-5 for each in apart) >= 7
