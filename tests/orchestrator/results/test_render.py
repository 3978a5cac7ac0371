import csv
import io
import json
from dataclasses import replace

import pytest
from builders import RUN, quality
from measured import put_run

from slimctl.orchestrator.results.collect import collect
from slimctl.orchestrator.results.lineage import Lineage
from slimctl.orchestrator.results.pool import Comparison, compare
from slimctl.orchestrator.results.render import (
    as_csv,
    as_json,
    as_latex,
    as_markdown,
    judge_notes,
    notes,
    save_plot,
    short_names,
    table,
)

PROTOCOL = "reference load_dataset-d0, features train_features-f0, samples 200, draws 1"


@pytest.fixture
def comparison(store) -> Comparison:
    put_run(store, "late-20260102-120000-aaaa", {}, {"late": "it broke"})
    return compare(collect(store, [RUN, "late"], {}), Lineage(store))


def test_the_table(comparison):
    head, rows = table(comparison)
    assert head == (
        "", "name", "channels", "solver", "parameters", "MACs", "NFE", "FID",
        "above the first", "KID", "precision", "recall", "latency", "seeds", "CPU-hours",
    )  # fmt: skip
    assert rows[0] == (
        "*", "students.width=16.quality", "16", "euler 2", "1,600", "4.46 M", "2", "5.50 ± 1.24",
        "", "0.500 ± 0.000", "0.500 ± 0.000", "0.250 ± 0.000", "1.50 ms", "3", "3",
    )  # fmt: skip
    assert rows[1][8] == "+5.50 [+4.26, +6.74]"
    assert rows[2][1] == "late"
    assert rows[2][head.index("FID")] == "failed"


def test_a_latency_that_was_not_measured_alone_is_marked(comparison):
    row = comparison.rows[0]
    first = row.results[0]
    loud = replace(first, report=first.report.model_copy(update={"latency_quiet": False}))
    row = replace(row, results=(loud, *row.results[1:]))
    marked = replace(comparison, rows=(row, *comparison.rows[1:]))
    head, rows = table(marked)
    column = head.index("latency")
    assert [each[column] for each in rows[:2]] == ["~1.50 ms", "1.50 ms"]
    assert any(line.startswith("~ ") for line in notes(marked))
    assert not any(line.startswith("~ ") for line in notes(comparison))


def test_notes_say_what_the_numbers_mean(comparison):
    text = "\n".join(notes(comparison))
    assert f"FID protocol: {PROTOCOL}" in text
    assert "13 CPU-hours for all models; 5 saved: what they share was made once" in text
    assert "late-20260102-120000-aaaa/late is failed: it broke" in text


def test_csv_is_read_back(comparison):
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    assert float(rows[0]["fid"]) == pytest.approx(5.5)
    assert [row["fid_above_first"] for row in rows] == ["", "5.5", ""]
    assert float(rows[0]["fid_half"]) == pytest.approx(1.24, abs=0.005)
    assert rows[0]["fid_protocol"] == PROTOCOL
    assert [row["front"] for row in rows] == ["1", "0", "0"]
    assert [row["front_tied"] for row in rows] == ["0", "0", ""]
    assert all(float(row[name]) >= 0 for row in rows[:2] for name in ("fid", "precision", "nfe"))
    assert [row["state"] for row in rows] == ["done", "done", "failed"]
    assert rows[2]["fid"] == ""


def test_markdown_and_latex_are_tables(comparison):
    head, rows = table(comparison, protocol=True)
    lines = as_markdown(head, rows).splitlines()
    assert len(lines) == 2 + 3
    assert {line.count("|") for line in lines} == {len(head) + 1}
    tex = as_latex(head, rows)
    assert tex.count(r"\\") == 1 + 3
    assert r"5.50 $\pm$ 1.24" in tex
    assert r"load\_dataset-d0" in tex
    assert all(line.count(" & ") == len(head) - 1 for line in tex.splitlines() if r"\\" in line)


def test_json_has_the_numbers(comparison):
    made = json.loads(json.dumps(as_json(comparison)))
    first = made["rows"][0]
    assert first["fid"]["mean"] == 5.5
    assert first["settings"] == {"model.network.channels": 16}
    assert first["results"][2]["artifact"] == "evaluate-w16s2"
    assert made["protocol"]["samples"] == "200"
    assert made["missing"][0]["job"] == "late"


def test_a_picture_is_drawn(comparison, tmp_path):
    save_plot(comparison, tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_a_tie_is_said_to_be_one(comparison):
    first, second = comparison.rows
    rows = (first, replace(second, tied_front=True))
    tied = replace(comparison, rows=rows)
    assert [row[0] for row in table(tied)[1][:2]] == ["*", "="]
    assert "= a tie within the 95 % interval" in notes(tied)[0]
    assert "a tie" not in notes(comparison)[0]


def test_a_cost_without_a_column_gets_one_where_the_front_is_of_it(store):
    made = compare(collect(store, [RUN], {}), Lineage(store), ("fid", "sample_macs"))
    head, rows = table(made)
    assert rows[0][head.index("MACs x NFE")] == "8.92 M"  # 4.46 M, two evaluations
    assert as_json(made)["rows"][0]["sample_macs"]["mean"] == 8.92e6


def test_names_are_as_short_as_they_can_be():
    assert short_names(["model.network.channels", "model.steps", "model.start.steps"]) == {
        "model.network.channels": "channels",
        "model.steps": "model.steps",
        "model.start.steps": "start.steps",
    }
    assert short_names(["steps", "model.steps"]) == {"steps": "steps", "model.steps": "model.steps"}


def test_features_that_chose_what_they_measure_are_named():
    reports = {
        "nothing": quality(),
        "itself": quality(chosen_by=("f", "g")),
        "apart": quality(chosen_by=("g",)),
    }
    same, apart = judge_notes(reports)
    assert same.startswith("itself: the features of this FID and KID also chose the weights")
    assert apart == "apart: other features than these chose the weights"
    assert judge_notes({"nothing": quality()}) == []
