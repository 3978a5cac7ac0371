"""Programs that know nothing of each other and want the same results of one storage."""

import subprocess
import sys
from pathlib import Path

from here import SMALL, run_here
from ray_processes import result_bytes

from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.runs.runs import run_ids

PROGRAM = """
import sys
from here import run_here
ended = run_here(sys.argv[1], sys.argv[2])
assert set(ended.values()) == {""}, ended
"""
MORE = SMALL.replace("count: 24", "count: 40")


def test_each_result_is_made_once(tmp_path):
    """By whoever comes first; a longer pair set waits for a shorter one and continues it."""
    for text in (SMALL, MORE):
        assert set(run_here(tmp_path / "calm", text).values()) == {""}
    storage = tmp_path / "store"
    folders = [str(Path(__file__).parents[1] / "orchestrator"), str(Path(__file__).parents[2])]
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(storage), text],
            env={"PYTHONPATH": ":".join(folders), "PATH": "", "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE, text=True,
        )
        for text in (SMALL, SMALL, MORE)
    ]  # fmt: skip
    for program in programs:
        _, err = program.communicate(timeout=280)
        assert program.returncode == 0, err
    assert result_bytes(storage) == result_bytes(tmp_path / "calm")
    store = Store(str(storage))
    assert len(run_ids(store.blobs)) == 3
    assert store.blobs.names("locks") == []
    assert store.blobs.names("work") == []
