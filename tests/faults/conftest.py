"""No test leaves a program behind."""

from collections.abc import Iterator

import pytest
from ray_processes import end_all


@pytest.fixture(autouse=True)
def _no_program_is_left() -> Iterator[None]:
    yield
    end_all()
