import pytest
import torch

from slimctl.models.flows.path import annealed_noise


def test_ends_are_exact():
    x0, fresh = torch.randn(2, 4, 1, 3, 3)
    assert annealed_noise(x0, fresh, 0.0) is x0
    assert torch.equal(annealed_noise(x0, fresh, 1.0), fresh)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_variance_stays_one_and_the_correlation_is_known(beta):
    x0, fresh = torch.randn(2, 200, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    mixed = annealed_noise(x0, fresh, beta)
    assert mixed.var().item() == pytest.approx(1.0, abs=0.01)
    assert (mixed * x0).mean().item() == pytest.approx((1 - beta**2) ** 0.5, abs=0.01)
    assert (mixed * fresh).mean().item() == pytest.approx(beta, abs=0.01)


def test_beta_outside_its_range_is_refused():
    x0 = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match=r"beta is 1\.5"):
        annealed_noise(x0, x0, 1.5)
