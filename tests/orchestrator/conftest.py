"""Job kinds that exist only in tests, offered to the program as an installed package would."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from jobs.base import registry
from jobs.base.spec import JobSpec

Install = Callable[..., None]


@pytest.fixture
def install_kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install_kinds(make_stone=MakeStone)` adds kinds for the duration of a test."""

    def install(**kinds: type[JobSpec]) -> None:
        entries = {
            name: SimpleNamespace(name=name, load=lambda cls=cls: cls)
            for name, cls in kinds.items()
        }
        monkeypatch.setattr(registry, "_third_party", lambda: entries)
        registry.load_kind.cache_clear()

    yield install
    registry.load_kind.cache_clear()
