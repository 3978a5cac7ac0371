import pytest

from slimctl.models import compilation
from slimctl.models.compilation import CompileTimes, compile_times


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize(("steps", "pays"), [(10, False), (100, False), (101, True), (1000, True)])
def test_compiling_pays_once_its_time_is_won_back(steps, pays):
    assert CompileTimes(eager_s=2.0, compiled_s=1.0, first_s=101.0).pays(steps) is pays


def test_a_slower_program_never_pays():
    assert not CompileTimes(eager_s=1.0, compiled_s=1.0, first_s=1.5).pays(10**9)


def test_it_is_measured_once(monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(compilation.time, "perf_counter", lambda: float(next(ticks)))
    calls = []
    found = compile_times({"a": 1}, lambda: calls.append("eager"), lambda: calls.append("fast"))
    count = len(calls)
    assert found == CompileTimes(1.0, 1.0, 1.0)
    assert compile_times({"a": 1}, lambda: calls.append(""), lambda: calls.append("")) == found
    assert len(calls) == count
    compile_times({"a": 2}, lambda: calls.append(""), lambda: calls.append(""))
    assert len(calls) == 2 * count


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": {"wrong": 1}}'])
def test_a_damaged_cache_is_measured_again(tmp_path, text):
    path = tmp_path / "slimctl" / "compile_times.json"
    path.parent.mkdir()
    path.write_text(text)
    assert compile_times({}, lambda: None, lambda: None).first_s >= 0
