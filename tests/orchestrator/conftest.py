"""Job kinds that exist only in tests, offered as a package would; a world for a supervisor."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from supervised import World

from slimctl.jobs.base import registry
from slimctl.jobs.base.spec import JobSpec

Install = Callable[..., None]


@pytest.fixture
def install_kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install_kinds(make_stone=MakeStone)` adds kinds for the duration of a test."""

    def install(**kinds: type[JobSpec]) -> None:
        entries = {
            name: SimpleNamespace(name=name, load=lambda cls=cls: cls, dist=None)
            for name, cls in kinds.items()
        }
        monkeypatch.setattr(registry, "_third_party", lambda: entries)
        registry.load_kind.cache_clear()

    yield install
    registry.load_kind.cache_clear()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """In which a supervisor runs jobs that end as the test says."""
    return World(monkeypatch, str(tmp_path))
