"""A package of somebody else, built, installed and used; then taken away."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from here import run_here

from slimctl.jobs.base import registry
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage.store import Store
from slimctl.models import spec as specs
from slimctl.models.networks.registry import network_families, parse_network
from slimctl.orchestrator.cli.main import main

SOURCE = Path(__file__).parent / "packages" / "slim_mosaic"
PIPELINE = """
name: tiles
seed: 3
jobs:
  data: {kind: load_dataset, source: digits, max_images: 40}
  tiles: {kind: cut-mosaic, data: data}
  flow:
    {kind: train-mosaic, mosaic: tiles, network: {kind: mosaic_net}, steps: 3, batch_size: 8,
     shared: true}
  pairs:
    {kind: generate_pairs, flow: flow, count: 8, shard_size: 8, solver: {kind: euler, steps: 2}}
"""
INSTALL = "install the package it is from: pip install slim-mosaic (version 1.2 made it)"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Folder with the installed package."""
    folder = tmp_path_factory.mktemp("site")
    copy = tmp_path_factory.mktemp("source")
    for path in SOURCE.rglob("*"):
        if path.suffix in (".py", ".toml"):
            target = copy / path.relative_to(SOURCE)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-build-isolation", "--target", folder, copy], check=True)
    return folder


def _forget() -> None:
    for cached in (specs.installed, registry._third_party, registry.load_kind):
        cached.cache_clear()
    network_families.cache_clear()


@pytest.fixture
def installed(site) -> Iterator[Callable]:
    """`with installed():` has the package on the path."""

    @contextmanager
    def on_the_path() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(site))
            _forget()
            yield
        for name in [name for name in sys.modules if name.startswith("slim_mosaic")]:
            del sys.modules[name]
        _forget()

    yield on_the_path
    _forget()


@pytest.fixture
def slimctl(monkeypatch, capsys, tmp_path) -> Callable[..., str]:
    """What the program prints; its exit code stands in the last line."""
    monkeypatch.setenv("SLIMCTL_STORAGE", str(tmp_path))

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["slimctl", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return f"{said.out}{said.err}\nexit {code}"

    return run


@pytest.fixture
def made(installed, tmp_path) -> Store:
    """A storage in which the pipeline ran; the package is gone."""
    with installed():
        assert run_here(tmp_path, PIPELINE) == dict.fromkeys(("data", "tiles", "flow", "pairs"), "")
    return Store(str(tmp_path))


def planned(slimctl: Callable[..., str], file: Path) -> list[dict[str, str]]:
    return json.loads(slimctl("plan", file, "--json").rpartition("\nexit")[0])["jobs"]


def test_its_kinds_networks_and_objective_run(made, installed, slimctl, tmp_path):
    file = tmp_path / "tiles.yaml"
    file.write_text(PIPELINE)
    with installed():
        assert [job["action"] for job in planned(slimctl, file)] == ["reuse"] * 4
        assert "cut-mosaic" in slimctl("kinds")
        assert slimctl("verify").endswith("exit 0")
        (tiles,) = made.find("cut-mosaic-")
        assert made.load_any(tiles).count == 160
        file.write_text(PIPELINE.replace("mosaic: tiles", "mosaic: data"))
        assert "needs a Mosaic as mosaic, but 'data' makes a Dataset" in slimctl("check", file)
        file.write_text(PIPELINE.replace("mosaic_net", "mosaic_nut"))
        assert "use 'mosaic_net'" in slimctl("check", file)


def test_without_it_results_are_whole_and_say_what_to_install(made, slimctl, tmp_path):
    (tiles,) = made.find("cut-mosaic-")
    assert made.state(tiles) == "done"
    with pytest.raises(UserError, match="is a Mosaic of the job kind 'cut-mosaic'") as caught:
        made.load_any(tiles)
    assert caught.value.fix == INSTALL
    shown = slimctl("show", tiles)
    assert re.search(r"^ *count +160$", shown, re.MULTILINE)
    assert INSTALL in shown
    assert shown.endswith("exit 0")
    assert slimctl("show").endswith("exit 0")
    assert '"count": 160' in slimctl("show", "--json")
    assert "4" in slimctl("status")
    assert "cut-mosaic" in slimctl("status", "tiles")
    assert slimctl("compare").endswith("exit 2")
    assert slimctl("verify").endswith("exit 0")
    file = tmp_path / "tiles.yaml"
    file.write_text(PIPELINE)
    refused = slimctl("plan", file)
    assert "there is no job kind 'cut-mosaic'" in refused
    assert refused.endswith("exit 2")


def test_without_it_nothing_is_garbage(made, slimctl):
    before = sorted(made.blobs.names())
    assert "clean" in slimctl("gc")
    assert sorted(made.blobs.names()) == before


def test_a_network_of_an_absent_package(made):
    (flow,) = made.find("train-mosaic-")
    handle = made.load_any(flow)
    with pytest.raises(ValueError, match="no network kind 'mosaic_net'"):
        parse_network(handle.network)


@pytest.mark.ray
def test_it_runs_on_ray(site, tmp_path):
    """Workers find the package where the program does, from another folder."""
    (tmp_path / "tiles.yaml").write_text(PIPELINE)
    command = [sys.executable, "-m", "slimctl", "submit", "tiles.yaml", "--json"]
    path = os.pathsep.join((str(site), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True,
        text=True, check=True, timeout=280,
    )  # fmt: skip
    jobs = json.loads(done.stdout)["jobs"]
    assert {name: job["state"] for name, job in jobs.items()} == dict.fromkeys(jobs, "done")
    assert jobs["tiles"]["artifact"]["count"] == 160


def test_its_metric_is_measured(installed, tmp_path, slimctl):
    pytest.importorskip("slimctl.models.metrics.evidence")
    from slimctl.models.metrics import metrics

    text = """
name: quality
jobs:
  data: {kind: load_dataset, source: digits, max_images: 200}
  features: {kind: train_features, data: data, steps: 5, network: {kind: classifier, channels: 4}}
  teacher: {kind: analytic_flow, data: data, bandwidth: 0.05}
  quality:
    {kind: evaluate, model: teacher, data: data, features: features, samples: 100,
     solver: {kind: euler, steps: 2}}
"""
    with installed():
        metrics.cache_clear()
        assert "contrast" in metrics()
        assert set(run_here(tmp_path, text).values()) == {""}
        assert "contrast" in slimctl("compare")
        store = Store(str(tmp_path))
        (report,) = store.find("evaluate-")
        assert store.load_any(report).contrast > 10
    metrics.cache_clear()
    assert "contrast" in slimctl("show", report)
