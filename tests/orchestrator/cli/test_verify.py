import json
import os
import shutil

import pytest
from here import run_here

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.runs.runs import run_ids


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    storage = tmp_path_factory.mktemp("upkeep") / "store"
    assert set(run_here(storage).values()) == {""}
    return storage


@pytest.fixture
def storage(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "store")
    return tmp_path / "store"


def test_a_whole_storage_is_verified(slimctl, storage):
    ended = slimctl("verify")
    assert ended.code == 0
    assert sorted(line.rpartition(": ")[2] for line in ended.out.splitlines()) == [
        "ok", "ok", "ok", "ok", "ok, made again",
    ]  # fmt: skip
    found = json.loads(slimctl("verify", "generate_pairs", "--pairs", "0", "--json").out)
    assert [each["rechecked"] for each in found] == [False]


def test_damage_is_named_removed_and_made_again(slimctl, storage):
    weights = next(storage.glob("artifacts/anneal_reflow-*/weights.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    ended = slimctl("verify")
    assert ended.code == 3
    assert f"{weights.relative_to(storage)} was changed" in ended.err
    assert "verify --repair" in ended.err
    assert weights.exists()
    assert slimctl("verify", "--repair").code == 3
    assert not weights.exists()
    assert set(run_here(storage).values()) == {""}
    assert weights.read_bytes() == data
    assert slimctl("verify").code == 0


def test_the_old_name_of_repair_works_with_a_note(slimctl, storage):
    weights = next(storage.glob("artifacts/anneal_reflow-*/weights.safetensors"))
    weights.write_bytes(b"")
    ended = slimctl("verify", "--mend")
    assert ended.code == 3
    assert "--mend is now called --repair" in ended.err
    assert not weights.exists()
    run_here(storage)


def test_an_artifact_that_is_not_there(slimctl, storage):
    ended = slimctl("verify", "nothing")
    assert (ended.code, ended.out) == (2, "")
    assert "there is no artifact 'nothing'" in ended.err


def test_gc_deletes_only_when_asked(slimctl, storage):
    old = storage / "work" / "train_flow-zz" / "latest.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    os.utime(old, (1e9, 1e9))
    os.utime(old.parent, (1e9, 1e9))
    ended = slimctl("gc")
    assert ended.code == 0
    assert "work/train_flow-zz: 2 bytes, no run refers to it" in ended.out
    assert "nothing is deleted without --delete" in ended.err
    assert old.exists()
    assert [each["name"] for each in json.loads(slimctl("gc", "--json").out)] == [
        "work/train_flow-zz"
    ]
    assert slimctl("gc", "--delete").code == 0
    assert not old.exists()
    assert "clean" in slimctl("gc").err
    assert slimctl("verify").code == 0


def test_the_doctor_looks_around(slimctl, storage):
    ended = slimctl("doctor")
    assert ended.code == 0, ended.out
    assert "storage: " in ended.out
    assert json.loads(slimctl("doctor", "--json").out)[0]["state"] == "ok"


def test_the_doctor_says_what_is_wrong(slimctl, tmp_path):
    (tmp_path / "file").write_text("")
    ended = slimctl("doctor", "--storage", tmp_path / "file" / "store")
    assert ended.code == 2
    assert "FAIL" in ended.out
    assert "fix: choose another folder" in ended.out


def test_logs_of_one_job(slimctl, storage):
    (run,) = run_ids(Store(str(storage)).blobs)
    ended = slimctl("logs", run, "student")
    assert ended.code == 0
    assert "student (anneal_reflow): done" in ended.out
    assert "data (" not in ended.out
    ended = slimctl("logs", run, "studnet")
    assert ended.code == 2
    assert "student" in ended.err


def test_following_a_run_that_is_over_ends(slimctl, storage):
    ended = slimctl("logs", "-f")
    assert ended.code == 0
    assert ended.out.splitlines()[-1].endswith(": done")


def test_a_damaged_log_is_reported_after_what_can_be_read(slimctl, storage):
    (log,) = storage.glob("runs/*/events/*/*.jsonl")
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:3], b"torn\n", *lines[4:]]))
    for verb in (["status"], ["logs"], ["status", log.parents[2].name]):
        ended = slimctl(*verb)
        assert ended.code == 3
        assert "1 line(s) of it are not what was written" in ended.err
        assert "small-" in ended.out or "data" in ended.out


def test_there_is_nothing_to_cancel_in_a_run_that_is_over(slimctl, storage):
    ended = slimctl("cancel")
    assert ended.code == 2
    assert "is done already" in ended.err


def test_a_finished_run_is_not_resumed(slimctl, storage):
    ended = slimctl("resume")
    assert ended.code == 0
    assert "nothing to do" in ended.err


@pytest.mark.parametrize("verb", ["cancel", "resume", "logs"])
def test_a_run_that_is_not_there(slimctl, storage, verb):
    ended = slimctl(verb, "nothing")
    assert ended.code == 2
    assert "there is no run 'nothing'" in ended.err


def test_a_disk_that_cannot_be_read_is_no_traceback(slimctl, storage, monkeypatch):
    def broken(*arguments):
        raise OSError(5, "Input/output error", "/mnt/x")

    monkeypatch.setattr("slimctl.orchestrator.runs.runs.run_ids", broken)
    ended = slimctl("status")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("/mnt/x: Input/output error\n  fix: ")
