"""How the tests run: with shape checks for `models`, one thread a process, whole files a worker."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch, here and in what tests start

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import hypothesis
import pytest
from jaxtyping import install_import_hook

if TYPE_CHECKING:
    from xdist.scheduler import LoadGroupScheduling

_hook = install_import_hook("slimctl.models", "beartype.beartype")
hypothesis.settings.register_profile("slimctl", deadline=None)  # a busy machine is no mistake
hypothesis.settings.load_profile("slimctl")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that start Ray come first, and under xdist all of them go to one worker."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if item.get_closest_marker("ray"):
                item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> "LoadGroupScheduling":
    """A worker takes all tests that start Ray, or a whole file: its fixtures are made once."""
    from xdist.scheduler import LoadGroupScheduling

    class GroupsAndFiles(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope = super()._split_scope(nodeid)
            return nodeid.partition("::")[0] if scope == nodeid else scope

    return GroupsAndFiles(config, log)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real images and reference outputs, where the environment names one."""
    folder = os.environ.get("SLIMCTL_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SLIMCTL_TEST_DATA names no folder with the development data")
    return Path(folder)


@pytest.fixture
def install_kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`install_kinds(make_stone=MakeStone)`: kinds as an installed package would offer them."""
    from slimctl.jobs.base import registry

    def install(**kinds: type) -> None:
        entries = {
            name: SimpleNamespace(name=name, load=lambda cls=cls: cls, dist=None)
            for name, cls in kinds.items()
        }
        monkeypatch.setattr(registry, "_third_party", lambda: entries)
        registry.load_kind.cache_clear()

    yield install
    registry.load_kind.cache_clear()
