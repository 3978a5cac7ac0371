import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from slimctl.models.metrics.density_coverage import density_coverage


def reference(real, generated, neighbours):
    """The formulas of arXiv 2002.09797 by scipy, as its package `prdc` writes them."""
    radii = np.sort(cdist(real, real), axis=1)[:, neighbours]
    distances = cdist(real, generated)
    density = (distances <= radii[:, None]).sum(axis=0).mean() / neighbours
    return density, (distances.min(axis=1) <= radii).mean()


@pytest.mark.parametrize("shift", [0.0, 0.5, 20.0])
@pytest.mark.parametrize("neighbours", [1, 5])
def test_against_the_formulas(shift, neighbours):
    rng = np.random.default_rng(0)
    real, generated = rng.normal(size=(300, 6)), rng.normal(size=(200, 6)) + shift
    found = density_coverage(torch.tensor(real), torch.tensor(generated), neighbours)
    density, coverage = reference(real, generated, neighbours)
    assert found.density == pytest.approx(density, abs=1e-12)
    assert found.coverage == pytest.approx(coverage, abs=1e-12)


def test_in_tiles(monkeypatch):
    from slimctl.models.metrics import density_coverage as module

    torch.manual_seed(0)
    real, generated = torch.randn(50, 3), torch.randn(40, 3)
    whole = density_coverage(real, generated)
    monkeypatch.setattr(module, "TILE_ROWS", 7)
    monkeypatch.setattr(module, "TILE_COLUMNS", 11)
    assert density_coverage(real, generated) == whole


def test_what_cannot_be_measured():
    with pytest.raises(ValueError, match="at least 6 are needed"):
        density_coverage(torch.zeros(5, 2), torch.zeros(5, 2))
    with pytest.raises(ValueError, match="neighbours is 0"):
        density_coverage(torch.zeros(5, 2), torch.zeros(5, 2), 0)
