import json

import pytest
from measured import put_report, put_run, put_student

from slimctl.orchestrator.runs.runs import save_pipeline

RUN = "measured-20260102-120000-aaaa"


@pytest.fixture(autouse=True)
def _measured(store):
    for name, fid in (("a", 3.0), ("b", 2.0)):
        put_student(store, name)
        put_report(store, name, f"anneal_reflow-{name}", fid=fid)
    put_run(store, RUN, {"one": "evaluate-a", "two": "evaluate-b"}, {})


def test_the_latest_run_is_compared(slimctl):
    ended = slimctl("compare")
    assert ended.code == 0
    assert "2.50 ± 6.35" in ended.out
    assert "FID protocol: " in ended.out


@pytest.mark.parametrize(
    ("form", "sign"), [("md", "| --- |"), ("csv", "front,front_tied,name"), ("latex", r"\toprule")]
)
def test_forms(slimctl, form, sign):
    assert sign in slimctl("compare", RUN, "--format", form).out


def test_json(slimctl):
    (row,) = json.loads(slimctl("compare", f"{RUN}/one", "--json").out)["rows"]
    assert (row["name"], row["fid"]) == ("one", {"mean": 3.0, "half": None})


def test_a_plot(slimctl, tmp_path):
    assert slimctl("compare", RUN, "--plot", tmp_path / "x.png").code == 0
    assert (tmp_path / "x.png").exists()
    ended = slimctl("compare", RUN, "--plot", tmp_path / "none" / "x.png")
    assert ended.code == 2
    assert "cannot be written" in ended.err
    assert slimctl("compare", RUN, "--plot", tmp_path / "x.what").code == 2


def test_a_file_with_nothing_made(slimctl, pipeline_file, tmp_path):
    ended = slimctl("compare", pipeline_file, "--storage", tmp_path / "store")
    assert ended.code == 2
    assert "nothing has been measured" in ended.err


def test_mistakes(slimctl):
    assert slimctl("compare", "nope").code == 2
    assert slimctl("compare", "none.yaml").code == 2
    ended = slimctl("compare", RUN, "--json", "--format", "md")
    assert (ended.code, ended.err.splitlines()[0]) == (2, "--json: cannot go with --format md")
    assert slimctl("compare", "--format", "xml").code == 2


def test_costs_are_those_of_the_runs_price(slimctl, store):
    save_pipeline(store.blobs, RUN, "name: measured\nprice: {cpu_hour: 0.5, currency: EUR}\n")
    shown = json.loads(slimctl("compare", RUN, "--json").out)
    assert shown["price"]["cpu_hour"] == 0.5
    assert [row["cost"] for row in shown["rows"]] == [1.0]  # two hours each, the mean of two seeds
    ended = slimctl("compare", RUN)
    assert "1.00 EUR" in ended.out
    assert "2.00 EUR for all models; 0.00 EUR saved" in ended.out
    assert "cost,currency" in slimctl("compare", RUN, "--format", "csv").out
