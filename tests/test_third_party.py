"""A package of somebody else, built, installed and used; then taken away."""

import json
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
from slimctl.models import entry_points
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
  pairs: {kind: generate_pairs, flow: flow, count: 8, solver: {kind: euler, steps: 2}}
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
    for cached in (entry_points.installed, registry._third_party, registry.load_kind):
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
        told = capsys.readouterr()
        return f"{told.out}{told.err}\nexit {code}"

    return run


@pytest.fixture
def made(installed, tmp_path) -> Store:
    """A storage in which the pipeline ran; the package is gone."""
    with installed():
        assert run_here(tmp_path, PIPELINE) == dict.fromkeys(("data", "tiles", "flow", "pairs"), "")
    return Store(str(tmp_path))


def test_its_kinds_networks_and_objective_run(made, installed, slimctl, tmp_path):
    file = tmp_path / "tiles.yaml"
    file.write_text(PIPELINE)
    with installed():
        assert "4 done" in slimctl("plan", file) or "nothing to do" in slimctl("plan", file)
        assert "cut-mosaic" in slimctl("kinds")
        assert slimctl("verify").endswith("exit 0")
        (tiles,) = made.find("cut-mosaic-")
        assert made.load_any(tiles).count == 160
        wrong = PIPELINE.replace("mosaic: tiles", "mosaic: data")
        file.write_text(wrong)
        assert "needs a Mosaic as mosaic, but 'data' makes a Dataset" in slimctl("check", file)
