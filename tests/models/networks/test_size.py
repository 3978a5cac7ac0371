import subprocess
import sys

import pytest

from slimctl.models.metrics.cost import build_on_meta, count_macs, count_parameters
from slimctl.models.networks.presets import PRESETS
from slimctl.models.networks.registry import parse_network
from slimctl.models.networks.size import NetworkSize, network_size
from slimctl.models.spec import ImageShape


def test_other_networks_are_counted():
    spec = parse_network({"kind": "song_unet", "channels": 8, "channel_multipliers": [1, 2]})
    image = ImageShape(channels=1, size=16, classes=3)
    module = build_on_meta(spec, image)
    expected = NetworkSize(parameters=count_parameters(module), macs=count_macs(module, image))
    assert network_size(spec, image) == expected


@pytest.mark.parametrize("name", PRESETS)
def test_published_networks_are_looked_up(name):
    preset = PRESETS[name]
    dropped = preset.network.model_copy(update={"dropout": 0.3})
    size = network_size(dropped, preset.image)
    assert (size.parameters, size.macs) == (preset.parameters, preset.macs)


def test_looking_up_loads_no_torch():
    code = (
        "import sys; from slimctl.models.networks.presets import PRESETS;"
        "from slimctl.models.networks.size import network_size;"
        "p = PRESETS['cifar10-15.7m']; network_size(p.network, p.image);"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_same_network_for_other_images_is_another_size():
    preset = PRESETS["cifar10-3.4m"]
    larger = preset.image.model_copy(update={"size": 64})
    assert network_size(preset.network, larger).macs == PRESETS["ffhq64-3.5m"].macs
