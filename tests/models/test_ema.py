import math

import pytest
import torch
from torch import nn

from slimctl.models.ema import PowerEMA, power_decay, profile_exponent, reconstruction


def test_decay_of_the_first_updates_and_the_bound():
    assert power_decay(1) == 2 / 11
    assert power_decay(100) == 101 / 110
    assert power_decay(10**9) == 0.999999
    assert power_decay(100, decay_max=0.5) == 0.5


def test_average_is_the_closed_form():
    """Weights share_k prod_{j > k} decay_j on the values after update k, and the rest at first."""
    module = nn.Linear(3, 2)
    values = [module.weight.detach().double().clone()]
    ema = PowerEMA(module)
    for _ in range(30):
        with torch.no_grad():
            module.weight.add_(torch.randn(2, 3))
        values.append(module.weight.detach().double().clone())
        ema.update()
    weights = [math.prod(power_decay(j) for j in range(1, 31))]
    for k in range(1, 31):
        later = math.prod(power_decay(j) for j in range(k + 1, 31))
        weights.append((1 - power_decay(k)) * later)
    assert sum(weights) == pytest.approx(1.0)
    expected = sum(w * v for w, v in zip(weights, values, strict=True))
    torch.testing.assert_close(ema.average["weight"].double(), expected, rtol=1e-5, atol=1e-5)


def test_mean_lag_is_a_tenth_of_the_steps():
    """A module whose weight is the step number: the average lags by 10 % of the steps."""
    module = nn.Linear(1, 1)
    ema = PowerEMA(module)
    for step in range(1, 5001):
        with torch.no_grad():
            module.weight.fill_(step)
        ema.update()
    assert (5000 - ema.average["weight"].item()) / 5000 == pytest.approx(0.1, abs=0.001)


def test_a_saved_average_goes_on_bit_equal():
    def train(module, ema, steps, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(steps):
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=generator))
            ema.update()

    module = nn.Linear(4, 4)
    ema = PowerEMA(module)
    train(module, ema, 10, seed=1)
    saved = {name: value.clone() for name, value in ema.average.items()}
    updates = ema.updates
    other = nn.Linear(4, 4)
    other.load_state_dict(module.state_dict())
    resumed = PowerEMA(other)
    resumed.load(saved, updates)
    train(module, ema, 5, seed=2)
    train(other, resumed, 5, seed=2)
    assert resumed.updates == ema.updates == 15
    for name, value in ema.average.items():
        assert torch.equal(value, resumed.average[name])


def test_buffers_and_counters():
    module = nn.BatchNorm1d(2)
    ema = PowerEMA(module)
    module(torch.randn(8, 2))
    ema.update()
    assert ema.average["num_batches_tracked"] == 1
    expected = torch.lerp(torch.zeros(2), module.running_mean, 1 - 2 / 11)
    torch.testing.assert_close(ema.average["running_mean"], expected)
    target = nn.BatchNorm1d(2)
    ema.copy_to(target)
    assert torch.equal(target.running_mean, ema.average["running_mean"])


def test_half_precision_weights_have_a_float32_average():
    module = nn.Linear(2, 2).to(torch.bfloat16)
    ema = PowerEMA(module)
    ema.update()
    assert ema.average["weight"].dtype == torch.float32
    ema.copy_to(module)
    assert module.weight.dtype == torch.bfloat16


def test_the_average_is_not_the_module():
    module = nn.Linear(2, 2)
    ema = PowerEMA(module)
    with torch.no_grad():
        module.weight.add_(1.0)
    assert not torch.equal(ema.average["weight"], module.weight)


def test_another_network_is_refused():
    ema = PowerEMA(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="1 entries differ, the first is weight"):
        ema.load(PowerEMA(nn.Linear(3, 2)).average, 1)
    with pytest.raises(RuntimeError, match="size mismatch"):
        ema.copy_to(nn.Linear(3, 2))


def test_a_module_without_weights():
    ema = PowerEMA(nn.Identity())
    ema.update()
    assert ema.average == {}


@pytest.mark.parametrize(("length", "exponent"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_lengths_of_power_profiles(length, exponent):
    assert profile_exponent(length) == pytest.approx(exponent, abs=5e-3)


def averages_of(values, exponents):
    """Averages after each of some values of a single weight, by exponent."""
    module = nn.Linear(1, 1, bias=False).double()
    found = {exponent: [] for exponent in exponents}
    kept = {exponent: PowerEMA(module, exponent=exponent) for exponent in exponents}
    for value in values:
        with torch.no_grad():
            module.weight.fill_(value)
        for exponent, ema in kept.items():
            ema.update()
            found[exponent].append(float(ema.average["weight"]))
    return found


def test_the_average_of_the_step_number_is_the_profiles_mean():
    """n (g + 1) / (g + 2), but for what the first steps round."""
    g = profile_exponent(0.1)
    last = averages_of(range(1, 2001), [g])[g][-1]
    assert last / 2000 == pytest.approx((g + 1) / (g + 2), rel=1e-3)


def test_an_average_of_any_length_is_made_of_snapshots_of_two():
    """Of a weight that moves: 16 snapshots of the lengths 0.05 and 0.1 give 0.07 and 0.15."""
    values = [math.sin(step / 300) + step / 1000 for step in range(2000)]
    two = [profile_exponent(length) for length in (0.05, 0.1)]
    for length in (0.07, 0.15):
        wanted = profile_exponent(length)
        found = averages_of(values, [*two, wanted])
        steps = range(125, 2001, 125)
        kept = [(step, exponent) for step in steps for exponent in two]
        shares = reconstruction(kept, 2000, wanted)
        assert sum(shares) == pytest.approx(1.0, abs=1e-3)
        made = sum(s * found[g][step - 1] for s, (step, g) in zip(shares, kept, strict=True))
        assert made == pytest.approx(found[wanted][-1], abs=2e-3)
    itself = reconstruction(kept, 2000, two[1])
    assert itself[-1] == pytest.approx(1.0, abs=1e-3)
