import json

import pytest
from builders import RUN

from slimctl.orchestrator.runs.events import EventLog
from slimctl.orchestrator.runs.runs import save_pipeline


@pytest.fixture(autouse=True)
def _stored(store):
    """Every test looks at the storage with a run."""


def test_status_lists_the_runs(slimctl):
    ended = slimctl("status")
    assert ended.code == 0
    assert RUN in ended.out
    assert "1 reused, 1 done, 1 failed" in ended.out
    (run,) = json.loads(slimctl("status", "--json").out)
    assert (run["run"], run["state"], run["name"]) == (RUN, "failed", "digits")
    assert run["jobs"] == {"reused": 1, "done": 1, "failed": 1}


def test_status_of_an_empty_storage(slimctl, tmp_path):
    ended = slimctl("status", "--storage", tmp_path / "empty")
    assert ended.code == 0
    assert json.loads(slimctl("status", "--storage", tmp_path / "empty", "--json").out) == []
    assert not (tmp_path / "empty").exists()


def test_a_run_that_has_said_nothing_yet_is_listed(slimctl, store):
    save_pipeline(store.blobs, "digits-20260102-120000-aaaa", "")
    line = next(row for row in slimctl("status").out.splitlines() if "20260102" in row)
    assert "1970" not in line
    assert "interrupted" in line


@pytest.mark.parametrize("name", [RUN, "digits", "digits-2026"])
def test_status_of_a_run_lists_its_jobs(slimctl, name):
    ended = slimctl("status", name)
    assert ended.code == 0
    assert ended.out.startswith(f"{RUN}: failed\n")
    rows = {row.split()[0]: row for row in ended.out.splitlines()[3:]}
    assert rows.keys() == {"data", "quality", "late"}
    assert "50/200" in rows["quality"]
    assert "loss 0.25" in rows["quality"]
    assert "it broke" in rows["late"]
    state = json.loads(slimctl("status", name, "--json").out)
    assert state["jobs"]["quality"]["metrics"] == {"loss": 0.25}
    assert "points" not in state["jobs"]["quality"]


@pytest.mark.parametrize("verb", ["status", "logs", "show"])
def test_an_unknown_run_is_the_users_mistake(slimctl, verb):
    ended = slimctl(verb, "digits-20260101-120000-aaab")
    assert ended.code == 2
    assert ended.out == ""
    assert "'digits-20260101-120000-aaab'" in ended.err
    assert f"did you mean '{RUN}'?" in ended.err


def test_show_without_a_name_is_the_latest_run(slimctl):
    ended = slimctl("show")
    assert ended.code == 0
    assert RUN in ended.out
    assert "12.35" in ended.out
    assert "the table's last line" not in ended.out
    assert "FID of 200 real images drawn with replacement: 1.00" in ended.out
    assert ended.out == slimctl("show", RUN).out


def test_show_a_run_as_data(slimctl):
    made = json.loads(slimctl("show", "--json").out)
    assert made["run"] == RUN
    assert made["jobs"]["quality"]["artifact"]["fid"] == 12.345
    assert made["jobs"]["late"]["error"] == "it broke"


@pytest.mark.parametrize(
    "name", [f"{RUN}/quality", "digits/quality", "/quality", "evaluate-q0", "evaluate", "eval"]
)
def test_show_an_artifact(slimctl, store, name):
    ended = slimctl("show", name)
    assert ended.code == 0
    assert ended.out.startswith("evaluate-q0: QualityReport made by evaluate in 1.5 s\n")
    for part in ("fid", "12.345", "network.channels  8", "load_dataset-d0", "note: few images"):
        assert part in ended.out
    assert "data.safetensors  5 bytes" in ended.out
    assert f"folder: {store.uri}/artifacts/evaluate-q0" in ended.out
    assert "\nmade from\n  evaluate-q0 (evaluate)\n" in ended.out
    again = f"slimctl submit {store.uri}/runs/{RUN}/pipeline.yaml --storage {store.uri}"
    assert again in ended.out
    manifest = json.loads(slimctl("show", name, "--json").out)
    assert (manifest["type"], manifest["kind"]) == ("QualityReport", "evaluate")


def test_show_something_unknown_names_the_nearest(slimctl):
    ended = slimctl("show", "evaluate-q9")
    assert ended.code == 2
    assert "there is no run and no artifact 'evaluate-q9'" in ended.err
    assert "did you mean 'evaluate-q0'?" in ended.err
    ended = slimctl("show", f"{RUN}/qualty")
    assert ended.code == 2
    assert f"{RUN}: has no job 'qualty'" in ended.err
    assert "did you mean 'quality'?" in ended.err


def test_show_in_an_empty_storage(slimctl, tmp_path):
    ended = slimctl("show", "x", "--storage", tmp_path / "empty")
    assert ended.code == 2
    assert "slimctl submit" in ended.err


def test_show_a_job_without_a_result(slimctl):
    ended = slimctl("show", "digits/late")
    assert ended.code == 2
    assert "has no result: it is failed" in ended.err


def test_show_what_could_be_several(slimctl, store):
    for name in ("evaluate-q1", "evaluate-q01"):
        folder = store.blobs.root / "artifacts"
        (folder / name).mkdir()
        (folder / name / "artifact.json").write_bytes(
            (folder / "evaluate-q0" / "artifact.json").read_bytes()
        )
    ended = slimctl("show", "evaluate")
    assert ended.code == 2
    assert "'evaluate' means 3 artifacts: evaluate-q0, evaluate-q01, evaluate-q1" in ended.err
    assert slimctl("show", "evaluate-q0").code == 0, "a whole name is no beginning"


def test_show_something_damaged(slimctl, store):
    (store.blobs.root / "artifacts" / "evaluate-q0" / "artifact.json").write_text("{}")
    for name in ("evaluate-q0", "digits/quality"):
        ended = slimctl("show", name)
        assert ended.code == 3
        assert "evaluate-q0: artifact.json is not readable" in ended.err
        assert "submit again" in ended.err
    assert slimctl("show").code == 0, "the run still has its table of jobs"


@pytest.mark.parametrize("arguments", [[], [RUN], ["digits"]])
def test_logs_say_what_was_said(slimctl, arguments):
    ended = slimctl("logs", *arguments)
    assert ended.code == 0
    said = [line[9:] for line in ended.out.splitlines()]
    assert said[:4] == [
        "data (load_dataset): reused",
        "quality (evaluate): started",
        "quality (evaluate): half way",
        "quality (evaluate): warning: grey images",
    ]
    assert "late (evaluate): FAILED: it broke" in said
    assert said[-1] == f"run {RUN}: failed"


def test_the_option_goes_before_the_environment(slimctl, store, monkeypatch, tmp_path):
    monkeypatch.setenv("SLIMCTL_STORAGE", str(tmp_path / "empty"))
    assert RUN not in slimctl("status").out
    assert RUN in slimctl("status", "--storage", store.uri).out
    monkeypatch.delenv("SLIMCTL_STORAGE")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slim-store").symlink_to(tmp_path / "store")
    assert RUN in slimctl("status").out


@pytest.fixture
def grouped(store) -> str:
    """A run with six iterations of one job."""
    run = "grouped-20260103-120000-aaaa"
    names = [f"g.w={w}.seed={s}.quality" for w in (8, 16) for s in range(3)]
    job = {"kind": "evaluate", "key": "q0", "artifact": "evaluate-q0"}
    log = EventLog(store.blobs, run)
    log.add("run_started", name="grouped", jobs={name: job for name in ["data", *names]})
    for name in names[:4]:
        log.add("job_reused", name)
    log.add("run_ended", state="failed")
    log.flush()
    return run


def test_the_jobs_of_a_large_group_share_a_row(slimctl, grouped):
    lines = slimctl("status", grouped).out.splitlines()
    assert len(lines) == 3 + 2
    assert "g.quality x 6" in lines[-1]
    assert "4 reused, 2 waiting" in lines[-1]
    lines = slimctl("status", f"{grouped}/g").out.splitlines()
    assert len(lines) == 3 + 6
    assert lines[3].startswith("g.w=8.seed=0.quality ")
    state = json.loads(slimctl("status", f"{grouped}/g", "--json").out)
    assert len(state["jobs"]) == 6


def test_a_group_that_is_not_there(slimctl, grouped):
    ended = slimctl("status", f"{grouped}/gg")
    assert (ended.code, ended.err) == (
        2,
        f"{grouped}: has no group 'gg'\n  fix: did you mean 'g'?\n",
    )


@pytest.mark.parametrize(
    "name", ["g.w=8.seed=1.quality", "g[w=8,seed=1].quality", "g[seed=1, w=8].quality"]
)
def test_one_job_of_a_group_is_shown(slimctl, grouped, name):
    assert slimctl("show", f"{grouped}/{name}").out.startswith("evaluate-q0: QualityReport")


@pytest.mark.parametrize("name", ["g[w=8].quality", "g[w=9,seed=1].quality", "g.quality"])
def test_a_name_that_is_not_one_job(slimctl, grouped, name):
    ended = slimctl("show", f"{grouped}/{name}")
    assert ended.code == 2
    assert f"has no job '{name}'" in ended.err
