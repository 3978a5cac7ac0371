import json

from jobs.base.registry import kind_names
from models.networks.presets import PRESETS


def test_kinds(slimctl):
    found = {kind["name"]: kind for kind in json.loads(slimctl("kinds", "--json").out)}
    assert tuple(found) == kind_names()
    assert found["distill"]["output"] == "Generator"
    assert found["distill"]["inputs"]["pairs"] == ["PairSet"]
    assert all(kind["summary"] for kind in found.values())
    assert all(name in slimctl("kinds").out for name in found)


def test_presets(slimctl):
    found = json.loads(slimctl("presets", "--json").out)
    assert [preset["name"] for preset in found] == [preset.name for preset in PRESETS.values()]
    assert all(preset["parameters"] > 0 and preset["macs"] > 0 for preset in found)
    assert all(preset["name"] in slimctl("presets").out for preset in found)


def test_schema(slimctl):
    schema = json.loads(slimctl("schema").out)
    assert "jobs" in schema["properties"]
