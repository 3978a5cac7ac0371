"""What a step does to a GPU, against a table: kernels, bytes that they move, copies and waits.

`on_fake_cuda.py` does the counting, in a process whose torch believes in a GPU.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TABLE = HERE / "fake_cuda.json"
TOLERANCE = 0.05
"""Share by which a number may change without the table."""
RENEW = "SLIMCTL_RENEW_COUNTS"
CHANGE = (
    f"where that is meant, write the table again: {RENEW}=1 pytest tests/jobs/test_fake_cuda.py"
)


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """Counts by case, once every case has passed."""
    found = tmp_path_factory.mktemp("counts") / "counts.json"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short"]
    run = subprocess.run(
        [*command, str(HERE / "on_fake_cuda.py")],
        env=os.environ | {"FAKE_CUDA_COUNTS": str(found), "PYTEST_ADDOPTS": ""},
        cwd=HERE.parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if run.returncode == pytest.ExitCode.NO_TESTS_COLLECTED:
        pytest.skip(run.stdout)
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-2000:]
    counted = json.loads(found.read_text())
    if os.environ.get(RENEW):
        rows = (f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(counted.items()))
        TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    return counted


@pytest.mark.timeout(900)  # a minute of computing, on a machine that may do much else
def test_a_step_costs_what_the_table_says(counts):
    table = json.loads(TABLE.read_text())
    assert counts.keys() == table.keys(), CHANGE
    changed = [
        f"{case}: {row[name]} {name}, {table[case][name]} in the table"
        for case, row in counts.items()
        for name in row
        if abs(row[name] - table[case][name]) > TOLERANCE * table[case][name]
    ]
    assert not changed, "\n".join([*changed, CHANGE])
