import json

import pytest
from builders import dataset, put, quality

from slimctl.jobs.base.artifacts import FidProtocol, SweepReport, Trial
from slimctl.jobs.base.errors import DamagedArtifact
from slimctl.jobs.storage.store import Store
from slimctl.models.metrics import short_count
from slimctl.orchestrator.results.collect import quality_reports, run_json, verdict
from slimctl.orchestrator.results.render import protocol_notes, quality_table
from slimctl.orchestrator.runs.status import JobStatus, RunStatus

DATA = dataset()


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path))


def job(artifact: str, state: str, **fields: object) -> JobStatus:
    return JobStatus(kind="load_dataset", key="k", artifact=artifact, state=state, **fields)


def test_the_json_has_just_the_promised_fields(store):
    put(store, "load_dataset-1", DATA)
    jobs = {
        "data": job("load_dataset-1", "done", started=100.0, ended=103.25),
        "again": job("load_dataset-1", "reused"),
        "broken": job(
            "load_dataset-2", "failed", started=1.0, ended=2.0, message="no", fix="repair"
        ),
        "after": job("load_dataset-3", "blocked", message="needs 'broken', which failed"),
        "left": job("load_dataset-4", "cancelled"),
    }
    made = run_json(store, RunStatus(run="run-1", state="failed", jobs=jobs))
    assert made.keys() == {"run", "state", "jobs"}
    assert (made["run"], made["state"]) == ("run-1", "failed")
    promised = {"kind", "key", "state", "seconds", "artifact"}
    for name in ("data", "again", "left"):
        assert made["jobs"][name].keys() == promised
    for name in ("broken", "after"):
        assert made["jobs"][name].keys() == promised | {"error", "fix"}
    assert {name: made["jobs"][name]["state"] for name in jobs} == {
        "data": "done", "again": "reused", "broken": "failed", "after": "blocked",
        "left": "cancelled",
    }  # fmt: skip
    assert made["jobs"]["data"]["seconds"] == 3.25
    assert made["jobs"]["again"]["seconds"] == 0
    assert made["jobs"]["data"]["artifact"] == {
        **DATA.model_dump(mode="json"),
        "id": "load_dataset-1",
    }
    assert made["jobs"]["broken"]["artifact"] is None
    assert (made["jobs"]["broken"]["error"], made["jobs"]["broken"]["fix"]) == ("no", "repair")
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_a_job_under_way_has_taken_time_but_no_result(store, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 107.5)
    made = run_json(store, RunStatus(run="r", jobs={"data": job("x", "running", started=100.0)}))
    assert made["jobs"]["data"] == {
        "kind": "load_dataset", "key": "k", "state": "running", "seconds": 7.5, "artifact": None,
    }  # fmt: skip


def test_a_result_that_is_gone_is_said(store):
    with pytest.raises(DamagedArtifact, match="load_dataset-1"):
        run_json(store, RunStatus(run="r", jobs={"data": job("load_dataset-1", "done")}))


def test_the_table_has_the_teacher_first(store):
    made = {
        "one_step": quality(parameters=100, nfe=1),
        "teacher_1": quality(parameters=900, nfe=1),
        "student_2": quality(parameters=100, nfe=2),
        "teacher_50": quality(parameters=900, nfe=50),
    }
    jobs = {}
    for name, handle in made.items():
        put(store, f"evaluate-{name}", handle)
        jobs[name] = job(f"evaluate-{name}", "done")
    put(store, "load_dataset-1", DATA)
    jobs["data"] = job("load_dataset-1", "reused")
    jobs["gone"] = job("evaluate-gone", "done")
    jobs["failed"] = job("evaluate-one_step", "failed")
    found = quality_reports(store, RunStatus(run="r", jobs=jobs))
    assert list(found) == ["teacher_50", "teacher_1", "student_2", "one_step"]


def test_a_row_reads_as_people_write():
    head, (row,) = quality_table({"one_step": quality()})
    assert dict(zip(head, row, strict=True)) == {
        "model": "one_step", "solver": "one step", "parameters": "1,234,567", "MACs": "4.46 M",
        "NFE": "1", "FID": "12.35", "KID": "0.012 ± 0.003", "precision": "0.500",
        "recall": "0.250", "latency": "1.23 ms",
    }  # fmt: skip
    _, rows = quality_table({"x": quality(nfe=123.4), "y": quality(nfe=37.5)})
    assert [row[4] for row in rows] == ["123", "37.5"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1 k"),
        (999_600, "1 M"),
        (4_460_000, "4.46 M"),
        (2.5e9, "2.5 G"),
        (3e12, "3 T"),
    ],
)
def test_counts_are_short(number, text):
    assert short_count(number) == text


def test_the_table_says_which_fids_compare():
    one = FidProtocol(features="f", reference="d", samples=200, draws=1)
    other = one.model_copy(update={"reference": "sha256:1"})
    same = {"a": quality(protocol=one), "b": quality(protocol=one, fids=(12.345,))}
    assert protocol_notes(same) == []
    notes = protocol_notes({**same, "c": quality(protocol=other)})
    assert notes[0].endswith(": a, b; c")
    thrice = one.model_copy(update={"draws": 3})
    notes = protocol_notes({"a": quality(protocol=thrice, fid=1.0, fids=(1.0, 2.0, 3.0))})
    assert notes == ["a: lowest FID of 3 draws; mean 2.00"]
    assert protocol_notes({"old": quality()}) == []


def test_what_a_sweep_found_in_a_sentence():
    trials = (
        Trial(values={"width": 8}, state="done", metrics={"q.fid": 2.0}),
        Trial(values={"width": 16}, state="done", metrics={"q.fid": 1.0}),
        Trial(values={"width": 99}, state="filtered", why="q.parameters is 9, not at most 5"),
        Trial(values={"width": 12}, state="failed", why="q: broke"),
    )
    report = SweepReport(objectives=("q.fid",), trials=trials, chosen=1, front=(1,))
    count = "(2 of 4 trials done, 1 ruled out by size, 1 failed)"
    assert verdict(report) == f"width 16 has the lowest q.fid, 1 {count}"
    none = report.model_copy(update={"chosen": None})
    assert verdict(none) == f"nothing meets the limits {count}"
    several = none.model_copy(update={"objectives": ("q.fid", "q.size"), "front": (0, 1)})
    assert verdict(several) == f"on the front of q.fid, q.size: width 8; width 16 {count}"
