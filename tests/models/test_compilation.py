import pytest

from slimctl.models import compilation
from slimctl.models.compilation import CompileTimes, compile_times


@pytest.mark.parametrize(("steps", "pays"), [(10, False), (100, False), (101, True), (1000, True)])
def test_compiling_pays_once_its_time_is_won_back(steps, pays):
    assert CompileTimes(eager_s=2.0, compiled_s=1.0, first_s=101.0).pays(steps) is pays


def test_a_slower_program_never_pays():
    assert not CompileTimes(eager_s=1.0, compiled_s=1.0, first_s=1.5).pays(10**9)


def test_what_was_not_tried_never_pays():
    assert not CompileTimes(eager_s=1.0).pays(10**9)


@pytest.fixture
def calls(monkeypatch):
    """Calls of the eager step and of the compiled one, of which each takes a second."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(compilation.time, "perf_counter", lambda: float(next(ticks)))
    return []


@pytest.mark.parametrize(("steps", "tried"), [(179, False), (180, True)])
def test_it_is_tried_where_the_work_takes_three_minutes(calls, steps, tried):
    found = compile_times(steps, lambda: calls.append("eager"), lambda: calls.append("fast"))
    assert found == (CompileTimes(1.0, 1.0, 1.0) if tried else CompileTimes(1.0))
    each = compilation.WARM_UP + compilation.TIMED
    assert calls == ["eager"] * each + ["fast"] * (1 + each if tried else 0)
