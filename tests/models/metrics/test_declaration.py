"""What a metric declares, how its numbers read, and what packages may add."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from slimctl.models import metrics as registry
from slimctl.models.metrics import Metric, added, columns, metrics, take


def declared(**changes) -> Metric:
    fields = {"name": "spread", "label": "spread", "better": "higher", "version": 1}
    return Metric(**{**fields, "measure": "json:loads", **changes})


@pytest.fixture
def install(monkeypatch):
    """`install(name, what)` adds an entry point of another package."""

    def add(name: str, what: object) -> None:
        entry = SimpleNamespace(name=name, value="m:X", dist=None, load=lambda: what)
        monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
        metrics.cache_clear()

    yield add
    metrics.cache_clear()


def test_tables_have_these_columns():
    labels = [metric.label for metric in columns()]
    assert labels == [
        "parameters", "MACs", "NFE", "FID", "KID", "precision", "recall", "latency",
    ]  # fmt: skip
    assert added() == {}


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("fid", 12.345, "12.35"), ("kid", -0.0004, "-0.000"), ("nfe", 37.5, "37.5"),
        ("nfe", 123.4, "123"), ("parameters", 1234567.0, "1,234,567"), ("macs", 4.46e6, "4.46 M"),
        ("latency_ms", 1.234, "1.23 ms"),
    ],
)  # fmt: skip
def test_numbers_read_as_people_write_them(name, value, text):
    assert metrics()[name].text(value) == text


def test_a_package_adds_a_metric(install):
    install("spread", declared())
    assert [metric.label for metric in columns()][-2:] == ["spread", "latency"]
    assert added() == {"metric spread": "1"}


@pytest.mark.parametrize(
    ("name", "what", "message"),
    [
        ("fid", declared(name="fid"), "there is a number 'fid' already"),
        ("low", declared(name="low", beside=("kid_low",)), "there is a number 'kid_low' already"),
        ("spread", dict, "is no Metric"),
        ("other", declared(), "the metric is called 'spread'"),
        ("spread", declared(version=0), "version 0"),
        ("spread", declared(measure=""), "measured by ''"),
    ],
)
def test_wrong_entry_points_are_refused(install, name, what, message):
    install(name, what)
    with pytest.raises(ValueError, match=message) as caught:
        metrics()
    assert f"slimctl.metrics {name} = m:X" in str(caught.value)
    assert "fix: " in str(caught.value)


def test_a_metric_returns_what_it_declares(install, monkeypatch):
    monkeypatch.setattr(registry, "METRICS", ())
    install("spread", declared())
    assert take('{"spread": 2.5}') == {"spread": 2.5}
    with pytest.raises(ValueError, match=r"returned \['other'\].* declare \['spread'\]"):
        take('{"other": 1.0}')


def test_reading_declarations_imports_no_torch():
    code = "import sys, slimctl.models.metrics as m; m.metrics(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
