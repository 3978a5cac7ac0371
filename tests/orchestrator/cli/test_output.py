"""In a process of its own: descriptors are what this is about."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
VERB = """
import os, sys
sys.path.insert(0, {root!r})
from slimctl.orchestrator.cli.main import app, main
from slimctl.orchestrator.cli.output import echo, only_data

def loud() -> None:
    print("python")
    os.write(1, b"descriptor\\n")
    os.system("echo child")
    echo('{{"data": "\\u00fc\\udcff"}}')

app.command()(only_data(loud))
sys.argv = ["slimctl", "loud"]
main()
"""


def loud(shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A verb that prints in every way, from a shell that adds `shell` to the command."""
    command = f'"{sys.executable}" -c "$CODE" {shell}'
    return subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, check=False,
        env={**os.environ, "CODE": VERB.format(root=str(ROOT)), **environment}, timeout=60,
    )  # fmt: skip


def test_stdout_carries_data_only():
    done = loud(PYTHONIOENCODING="utf-8")
    assert done.stdout == '{"data": "ü'.encode() + b'\xff"}\n'
    assert done.stderr.split() == [b"python", b"descriptor", b"child"]


def test_an_ascii_terminal_shows_numbers():
    done = loud(PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (0, b'{"data": "\\xfc\\udcff"}\n')


@pytest.mark.parametrize(
    ("shell", "code", "message"),
    [
        ("| true", 0, b""),
        (">&-", 0, b""),
        (">&- 2>&-", 0, b""),
        ("> /dev/full", 2, b"standard output: No space left on device"),
        ("2>&-", 0, b""),
    ],
)
def test_wherever_the_output_goes(shell, code, message):
    done = loud(shell)
    assert done.returncode == code
    assert message in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_verbs_print_data_by_echo_alone():
    """`typer.echo` without `err=True` in a verb would land on stderr."""
    for file in (ROOT / "orchestrator" / "cli").glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if type(node) is ast.Call]
        for call in calls if file.name != "output.py" else []:
            options = {option.arg for option in call.keywords}
            assert ast.unparse(call.func) != "typer.echo" or "err" in options, (file, call.lineno)
