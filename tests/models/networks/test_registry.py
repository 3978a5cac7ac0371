"""Reading networks of any family: nearest names, locations of errors, plug-ins, schema."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Literal

import pytest
from pydantic import ValidationError

from slimctl.models.networks import registry
from slimctl.models.networks.presets import PRESETS
from slimctl.models.networks.registry import AnyNetworkSpec, network_families, parse_network
from slimctl.models.networks.song_unet.spec import SongUNetSpec
from slimctl.models.networks.spec import NetworkSpec
from slimctl.models.spec import Spec

FAMILIES = ["song_unet", "adm", "mlp", "diffusers_unet", "diffusers_model", "two_times",
    "denoiser", "slim",
]  # fmt: skip


class Job(Spec):
    """A spec with networks in it, as job specs are."""

    network: AnyNetworkSpec
    others: tuple[AnyNetworkSpec, ...] = ()
    guide: AnyNetworkSpec | None = None


class DenseSpec(NetworkSpec):
    """A family of another package."""

    kind: Literal["dense"] = "dense"
    width: int

    def check(self, image):
        pass

    def build(self, image):
        raise NotImplementedError


@pytest.fixture
def install(monkeypatch):
    """Installs entry points, as name -> object."""

    def install_entries(**entries):
        module = ModuleType("other_package")
        vars(module).update(entries)
        monkeypatch.setitem(sys.modules, "other_package", module)
        points = [EntryPoint(name, f"other_package:{name}", "slimctl.networks") for name in entries]
        monkeypatch.setattr(registry, "installed", lambda group: {p.name: p for p in points})

    network_families.cache_clear()
    yield install_entries
    network_families.cache_clear()


def locations(caught) -> list[tuple[object, ...]]:
    return [error["loc"] for error in caught.value.errors()]


def test_kind_selects_the_family():
    assert network_families()["song_unet"] is SongUNetSpec
    spec = parse_network({"kind": "song_unet", "channels": 8})
    assert spec == SongUNetSpec(channels=8)
    assert parse_network(spec) is spec


def test_preset_is_replaced_by_its_spec():
    preset = PRESETS["cifar10-15.7m"].network
    assert parse_network({"preset": "cifar10-15.7m"}) == preset
    changed = parse_network({"preset": "cifar10-15.7m", "dropout": 0.1})
    assert changed == preset.model_copy(update={"dropout": 0.1})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "song_unte"}, "no network kind 'song_unte'.*\n.*use 'song_unet'"),
        ({"kind": ["song_unet"]}, "no network kind"),
        ({"preset": "cifar10-15m"}, "no network preset 'cifar10-15m'.*\n.*use 'cifar10-15.7m'"),
        ({"channels": 8}, "needs `kind`: song_unet, adm, mlp, diffusers_unet"),
        ("song_unet", "mapping with `kind` or `preset`"),
        (None, "mapping with `kind` or `preset`"),
    ],
)
def test_what_names_no_network_says_what_there_is(value, message):
    with pytest.raises(ValueError, match=message):
        parse_network(value)


def test_errors_keep_the_path_of_the_field():
    good = {"kind": "song_unet", "channels": 8}
    with pytest.raises(ValidationError) as caught:
        Job(
            network={"kind": "song_unet", "channels": 2, "bloks": 3},
            others=(good, good | {"channel_multipliers": [1, 0]}),
            guide={"preset": "cifar10"},
        )
    assert locations(caught) == [
        ("network", "channels"),
        ("network", "bloks"),
        ("others", 1, "channel_multipliers", 1),
        ("guide", "preset"),
    ]


def test_a_field_round_trips_with_everything_that_its_family_has():
    job = Job(network={"preset": "ffhq64-3.5m"}, others=({"kind": "song_unet", "channels": 8},))
    assert job.model_dump()["network"]["blocks"] == 1
    assert Job.model_validate(job.model_dump()) == job
    assert Job.model_validate_json(job.model_dump_json()) == job


def test_schema_lists_families_and_presets():
    for mode in ("validation", "serialization"):
        *families, preset, slim = Job.model_json_schema(mode=mode)["properties"]["network"]["anyOf"]
        assert [family["properties"]["kind"]["const"] for family in families] == FAMILIES
        for family in families:
            assert "kind" in family["required"]
        for family in families[:2]:
            assert set(family["required"]) >= {"kind", "channels"}
            assert family["properties"]["blocks"]["minimum"] == 1
        assert preset["properties"]["preset"]["enum"] == list(PRESETS)
        assert slim["required"] == ["slim_of"]
        assert set(slim["properties"]) == {"slim_of", "kind", "width", "depth", "start"}


def test_another_package_adds_a_family(install):
    install(dense=DenseSpec)
    assert list(network_families()) == [*FAMILIES, "dense"]
    assert Job(network={"kind": "dense", "width": 3}).model_dump()["network"]["width"] == 3
    with pytest.raises(ValueError, match="use 'dense'"):
        parse_network({"kind": "dens"})


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"song_unet": DenseSpec}, "song_unet = other_package:song_unet: there is a network"),
        ({"dense": DenseSpec(width=1)}, "is no NetworkSpec class"),
        ({"sparse": DenseSpec}, "the class says kind = 'dense'"),
    ],
)
def test_wrong_entry_points_are_refused(install, entries, message):
    install(**entries)
    with pytest.raises(ValueError, match=message):
        network_families()


def test_reading_a_network_imports_no_torch():
    program = (
        "import sys; from slimctl.models.networks.registry import parse_network; "
        "parse_network({'preset': 'cifar10-15.7m'}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
