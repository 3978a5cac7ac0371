"""Job kinds that exist only in these tests, offered as an installed package would."""

from types import SimpleNamespace

import pytest

from slimctl.jobs.base import registry


@pytest.fixture
def install_kinds(monkeypatch):
    """`install_kinds(make_stone=MakeStone)` adds kinds for the duration of a test."""

    def install(**kinds):
        entries = {
            name: SimpleNamespace(name=name, load=lambda cls=cls: cls, dist=None)
            for name, cls in kinds.items()
        }
        monkeypatch.setattr(registry, "_third_party", lambda: entries)
        registry.load_kind.cache_clear()

    yield install
    registry.load_kind.cache_clear()
