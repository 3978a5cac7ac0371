import json

import pytest

from slimctl.jobs.base.registry import kind_names
from slimctl.models.networks.presets import PRESETS


def test_kinds(slimctl):
    found = {kind["name"]: kind for kind in json.loads(slimctl("kinds", "--json").out)}
    assert tuple(found) == kind_names()
    assert found["distill"]["output"] == "Generator"
    assert found["distill"]["inputs"]["pairs"] == ["PairSet"]
    assert all(kind["summary"] for kind in found.values())
    assert (found["distill"]["optional"], found["analytic_flow"]["optional"]) == (
        ["partition", "slim_of", "data", "features", "start", "guide"], [],
    )  # fmt: skip
    text = slimctl("kinds").out
    assert all(f"{name} -> {kind['output']}" in text for name, kind in found.items())
    assert "  guide: Flow (optional)\n" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_fields_of_a_kind(slimctl):
    text = slimctl("kinds", "distill", "sweep").out
    assert "distill -> Generator\n" in text
    assert "\n  steps: integer >= 1 (required)\n      Optimizer steps.\n" in text
    assert "  pairs: a job that makes PairSet (required)\n" in text
    assert "  recipe: slimflow or slimflow_huber or null (default null)\n" in text
    assert "{kind: huber" in text
    assert "  two_step_times: [number, number] (default [0.2, 0.8])\n" in text
    assert "\n  inputs" not in text, "what a sweep needs is what its jobs name"
    assert text.index("  pairs:") < text.index("  batch_size:"), "required ones first"
    assert max(map(len, text.splitlines())) <= 100
    (found,) = json.loads(slimctl("kinds", "evaluate", "--json").out)
    assert "samples" in found["fields"]["properties"]


@pytest.mark.parametrize("kind", kind_names())
def test_every_kind_is_explained(slimctl, kind):
    said = slimctl("kinds", kind)
    assert said.code == 0
    assert "any value" not in said.out or kind in ("sweep",)


def test_a_kind_that_is_not_there(slimctl):
    said = slimctl("kinds", "distil")
    assert said.code == 2
    assert "distill" in said.err


def test_presets(slimctl):
    found = json.loads(slimctl("presets", "--json").out)
    assert [preset["name"] for preset in found] == [preset.name for preset in PRESETS.values()]
    assert all(preset["parameters"] > 0 and preset["macs"] > 0 for preset in found)
    assert all(preset["name"] in slimctl("presets").out for preset in found)


def test_schema(slimctl):
    schema = json.loads(slimctl("schema").out)
    assert "jobs" in schema["properties"]
