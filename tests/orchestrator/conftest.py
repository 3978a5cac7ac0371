"""A world for a supervisor."""

from pathlib import Path

import pytest
from supervised import World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """In which a supervisor runs jobs that end as the test says."""
    return World(monkeypatch, str(tmp_path))
