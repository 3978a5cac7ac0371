import json

from jobs.base.registry import kind_names
from models.networks.presets import PRESETS


def test_kinds(slimctl):
    found = {kind["name"]: kind for kind in json.loads(slimctl("kinds", "--json").out)}
    assert tuple(found) == kind_names()
    assert found["distill"]["output"] == "Generator"
    assert found["distill"]["inputs"]["pairs"] == ["PairSet"]
    assert all(kind["summary"] for kind in found.values())
    assert (found["distill"]["optional"], found["analytic_flow"]["optional"]) == (
        ["partition", "start", "guide"], [],
    )  # fmt: skip
    text = slimctl("kinds").out
    assert all(f"{name} -> {kind['output']}" in text for name, kind in found.items())
    assert "  guide: Flow (optional)\n" in text
    assert max(map(len, text.splitlines())) <= 100


def test_presets(slimctl):
    found = json.loads(slimctl("presets", "--json").out)
    assert [preset["name"] for preset in found] == [preset.name for preset in PRESETS.values()]
    assert all(preset["parameters"] > 0 and preset["macs"] > 0 for preset in found)
    assert all(preset["name"] in slimctl("presets").out for preset in found)


def test_schema(slimctl):
    schema = json.loads(slimctl("schema").out)
    assert "jobs" in schema["properties"]
