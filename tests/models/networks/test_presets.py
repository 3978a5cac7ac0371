"""Each preset against the published table, and its stored numbers against the built network."""

import pytest

from slimctl.models.metrics.cost import build_on_meta, count_macs, count_parameters
from slimctl.models.networks.presets import PRESETS

PUBLISHED = {
    "cifar10-27.9m": (27_906_179, 6.574),
    "cifar10-15.7m": (15_707_235, 3.699),
    "cifar10-7.0m": (6_989_891, 1.645),
    "cifar10-3.4m": (3_437_123, 0.705),
    "cifar10-1rf-61.8m": (61_804_419, 10.339),
    "ffhq64-27.9m": (27_906_179, 26.287),
    "ffhq64-15.7m": (15_707_235, 14.792),
    "ffhq64-7.0m": (6_989_891, 6.579),
    "ffhq64-3.5m": (3_536_195, 2.820),
    "imagenet64-80.7m": (80_685_315, 31.04),
    "imagenet64-44.7m": (44_685_827, 28.06),
    "edm-cifar10-55.7m": (55_733_891, None),
    "edm-imagenet64-295.9m": (295_899_267, None),
}
"""Name -> parameters and GMAC of convolutions and linear layers; None where none is published."""


def test_presets_are_the_published_networks():
    assert set(PRESETS) == set(PUBLISHED)


@pytest.mark.parametrize("name", PRESETS)
def test_stored_numbers_are_the_built_networks_and_the_published(name):
    preset = PRESETS[name]
    network = build_on_meta(preset.network, preset.image)
    parameters, macs = count_parameters(network), count_macs(network, preset.image)
    assert (preset.parameters, preset.macs) == (parameters, macs)
    published_parameters, gmacs = PUBLISHED[name]
    assert parameters == published_parameters
    if gmacs is not None:
        decimals = 2 if preset.network.kind == "adm" else 3
        assert round(macs / 1e9, decimals) == gmacs
    assert (preset.name, preset.family) == (name, preset.network.kind)
