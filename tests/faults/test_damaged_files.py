"""Every file of a run and of its artifacts, cut, emptied, changed and removed, one at a time.

It is named, and made again or refused with exit 3: no traceback, no wrong result.
"""

import random
import shutil
import sys
from pathlib import Path

import pytest
from here import SMALL, run_here

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.cli.main import main

CODES = {0, 2, 3, 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A storage with a finished run."""
    storage = tmp_path_factory.mktemp("whole") / "store"
    assert set(run_here(storage).values()) == {""}
    return storage


def files_of(storage: Path) -> list[str]:
    found = (path.relative_to(storage).as_posix() for path in storage.rglob("*") if path.is_file())
    return sorted(found)


def result_bytes(storage: Path) -> dict[str, bytes]:
    """What the results say, without how long it took to make them."""
    kept = (name for name in files_of(storage) if name.endswith(".safetensors"))
    return {name: (storage / name).read_bytes() for name in kept}


def cut(data: bytes) -> bytes:
    return data[: random.Random(len(data)).randrange(1, len(data))]


def flip(data: bytes) -> bytes:
    at = random.Random(len(data)).randrange(len(data))
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


DAMAGES = {"cut": cut, "emptied": lambda data: b"", "flipped": flip}
in_turn = pytest.mark.parametrize(
    "turn",
    [0, pytest.param(1, marks=pytest.mark.faults), pytest.param(2, marks=pytest.mark.faults)],
)
"""Each file is damaged in one way, another one each turn; all turns are every file in every way."""


def damaged(data: bytes, at: int) -> bytes:
    return list(DAMAGES.values())[at % len(DAMAGES)](data)


@pytest.fixture
def slimctl(monkeypatch, capsys):
    """`slimctl("status", storage)` -> exit code and what was said; a traceback fails the test."""

    def run(*arguments: object, storage: Path) -> tuple[int, str]:
        words = [*map(str, arguments), "--storage", str(storage)]
        monkeypatch.setattr(sys, "argv", ["slimctl", *words])
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return int(str(code)), said.out + said.err

    return run


def test_a_whole_storage_is_found_whole(whole, slimctl):
    code, said = slimctl("verify", storage=whole)
    assert code == 0
    assert "made again" in said
    assert len(files_of(whole)) >= 10


@in_turn
def test_every_damaged_file_is_named_and_made_again(whole, tmp_path, slimctl, turn):
    expected = result_bytes(whole)
    for at, name in enumerate(files_of(whole)):
        storage = tmp_path / str(at)
        shutil.copytree(whole, storage)
        (storage / name).write_bytes(damaged((whole / name).read_bytes(), at + turn))
        code, said = slimctl("verify", storage=storage)
        if name.startswith("pairs/") and name.endswith(".json"):
            assert code == 0, "a shard's record only serves to find it"
        else:
            assert code == 3, (name, said)
            assert name in said, (name, said)
        run = next((storage / "runs").iterdir()).name
        for verb in (["status"], ["status", run], ["show"], ["show", "--json"], ["logs"]):
            code, said = slimctl(*verb, storage=storage)
            assert code in CODES, (name, verb, said)
            assert "Traceback" not in said
            if "/events/" in name and verb != ["show"] and verb != ["show", "--json"]:
                assert code == 3, (name, verb)
                assert name in said
        slimctl("verify", "--repair", storage=storage)
        assert set(run_here(storage).values()) == {""}, name
        code, said = slimctl("verify", storage=storage)
        assert code == 0 or all("runs/" in line for line in said.splitlines() if ": DAM" in line)
        assert result_bytes(storage) == expected, name
        shutil.rmtree(storage)


@in_turn
def test_what_nobody_verified_is_met_where_it_is_used(whole, tmp_path, turn):
    """Each input of the student's training, damaged unseen: exit 3 or a right result."""
    expected = result_bytes(whole)
    student = next(name for name in expected if name.startswith("artifacts/anneal_reflow"))
    inputs = [name for name in files_of(whole) if name.startswith(("pairs/", "artifacts/gen"))]
    assert len(inputs) == 7
    for at, name in enumerate(inputs):
        storage = tmp_path / str(at)
        shutil.copytree(whole, storage)
        shutil.rmtree((storage / student).parent)
        (storage / name).write_bytes(damaged((whole / name).read_bytes(), at + turn))
        failures = set(run_here(storage).values()) - {""}
        assert failures <= {"DamagedArtifact"}, (name, failures)
        if failures:
            assert set(run_here(storage).values()) == {""}, name
        assert result_bytes(storage) == expected, name
        shutil.rmtree(storage)


@in_turn
def test_damaged_checkpoints_cost_at_most_their_own_steps(whole, tmp_path, monkeypatch, turn):
    """Work that was broken off at its end, one of its files damaged: continued or made again."""
    expected = result_bytes(whole)
    text = SMALL.replace("    workers: 1", "    workers: 1\n    checkpoint_s: 1e-9")
    commit = Store.commit

    def refuse(self, artifact_id, *arguments):
        if artifact_id.startswith("anneal_reflow"):
            raise OSError(5, "Input/output error")
        return commit(self, artifact_id, *arguments)

    half = tmp_path / "half"
    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", refuse)
        assert run_here(half, text)["student"] == "OSError"
    work = [name for name in files_of(half) if name.startswith("work/")]
    assert len(work) == 5
    for at, name in enumerate(work):
        storage = tmp_path / str(at)
        shutil.copytree(half, storage)
        (storage / name).write_bytes(damaged((half / name).read_bytes(), at + turn))
        assert set(run_here(storage, text).values()) == {""}, name
        assert result_bytes(storage) == expected, name
        assert [left for left in files_of(storage) if left.startswith("work/")] == []
