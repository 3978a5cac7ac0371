import pytest

from slimctl.models import compilation
from slimctl.models.compilation import CompilesLater, CompileTimes, compile_times


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


class Batches:
    """Batches of a sampler whose times are known, eager and compiled, and which each was."""

    def __init__(self, monkeypatch, count, eager_s, compiled_s):
        self.now, self.ways, self.compiled = 0.0, [], False
        self.times = {False: eager_s, True: compiled_s}
        monkeypatch.setattr(compilation.time, "perf_counter", lambda: self.now)
        later = CompilesLater(count, self.switch)
        for _ in range(count):
            with later.batch():
                self.now += self.times[self.compiled]
                self.ways.append(self.compiled)
        assert later.compiled == self.compiled

    def switch(self, compiled):
        self.compiled = compiled


@pytest.mark.parametrize(("count", "tried"), [(91, False), (92, True)])
def test_a_sampler_is_compiled_where_what_is_left_takes_three_minutes(monkeypatch, count, tried):
    """Of two seconds each, judged after the second."""
    ways = Batches(monkeypatch, count, 2.0, 1.0).ways
    assert ways == [False, False] + [tried] * (count - 2)


def test_a_sampler_that_compiling_makes_slower_goes_back_for_good(monkeypatch):
    ways = Batches(monkeypatch, 500, 2.0, 2.5).ways
    assert ways == [False, False, True, True] + [False] * 496
