"""What the command line offers is written down here: a change of it is a change of this list."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from slimctl import __version__
from slimctl.jobs.base.errors import DamagedArtifact, JobFailed, SlimError, UserError
from slimctl.orchestrator.cli.main import app

ROOT = Path(__file__).parents[3]
COMMANDS = {
    "init": {"[name]", "-o", "--output", "--force", "--json"},
    "check": {"file", "--set", "--storage", "--json"},
    "plan": {"file", "--set", "--storage", "--tflops", "--expect-gpus", "--json"},
    "submit": {
        "file", "--set", "--storage", "--address", "--detach", "--expect-gpus", "--json",
    },
    "launch": {
        "file", "--to", "-o", "--output", "--submit", "--nodes", "--cpus", "--gpus", "--memory",
        "--time", "--notice", "--sbatch", "--image", "--namespace", "--queue", "--claim",
        "--secret", "--host", "--user", "--set", "--storage",
    },
    "status": {"[run]", "--storage", "--json"},
    "show": {"[thing]", "--storage", "--json"},
    "compare": {"[things]", "--storage", "--json", "--format", "--front", "--plot"},
    "report": {
        "[run]", "-o", "--output", "--trajectories", "-f", "--follow", "--storage",
    },
    "logs": {"[run]", "[job]", "-f", "--follow", "--storage"},
    "cancel": {"[run]", "--storage", "--address", "--checkpoint"},
    "resume": {"[run]", "--storage", "--address", "--detach", "--json"},
    "verify": {"[artifact]", "--pairs", "--repair", "--mend", "--storage", "--json"},
    "gc": {"--delete", "--storage", "--json"},
    "doctor": {"--storage", "--address", "--tracking", "--json"},
    "sample": {
        "model", "-n", "--count", "--seed", "--label", "--nfe", "--prompt", "--negative",
        "--guidance", "-o", "--output", "--storage",
    },
    "export": {
        "model", "--to", "-o", "--output", "--nfe", "--name", "--licence", "--license", "--force",
        "--storage", "--json",
    },
    "kinds": {"[names]", "--json"},
    "presets": {"--json"},
    "schema": set(),
}  # fmt: skip
HEAVY = ("torch", "ray", "mlflow", "sklearn", "pyarrow", "matplotlib", "numpy", "rich.live")


def offered(command) -> set[str]:
    found = set()
    for parameter in command.params:
        if parameter.param_type_name == "option":
            found.update(parameter.opts)
        else:
            found.add(parameter.name if parameter.required else f"[{parameter.name}]")
    return found


def test_the_commands_and_options_are_these():
    group = typer.main.get_command(app)
    assert {name: offered(command) for name, command in group.commands.items()} == COMMANDS


def test_every_command_and_option_says_what_it_is_for():
    group = typer.main.get_command(app)
    for command in group.commands.values():
        assert command.help
        for parameter in command.params:
            assert parameter.help or parameter.name == "run", (command.name, parameter.name)


def test_the_page_of_commands_has_every_command_and_exit_code():
    """Its options are made from the program when the site is built."""
    page = (ROOT / "docs" / "commands.md").read_text()
    assert [name for name in COMMANDS if f"slimctl {name}" not in page] == []
    assert [code for code in (0, 1, 2, 3, 4, 129, 130, 143) if f"\n| {code}" not in page] == []


def test_the_version_is_that_of_the_package(slimctl):
    ended = slimctl("--version")
    assert (ended.code, ended.out) == (0, f"slimctl {__version__}\n")


def test_every_command_has_help(slimctl):
    for command in COMMANDS:
        ended = slimctl(command, "--help")
        assert (ended.code, "Usage:" in ended.out) == (0, True), command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("here", "wrong", "repair"), 2),
        (DamagedArtifact("here", "wrong", "repair"), 3),
        (JobFailed("here", "wrong", "repair"), 4),
        (SlimError("here", "wrong", "repair"), 1),
    ],
)
def test_errors_become_messages_and_exit_codes(slimctl, monkeypatch, error, code):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("slimctl.orchestrator.runs.runs.run_ids", fail)
    ended = slimctl("status")
    assert (ended.code, ended.out, ended.err) == (code, "", "here: wrong\n  fix: repair\n")


def test_our_bugs_keep_their_traceback(slimctl, monkeypatch):
    def fail(*arguments):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("slimctl.orchestrator.runs.runs.run_ids", fail)
    with pytest.raises(ZeroDivisionError, match="ours"):
        slimctl("status")


def test_an_interrupt_is_130(slimctl, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("slimctl.orchestrator.runs.runs.run_ids", stop)
    assert slimctl("status").code == 130


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["check"], ["status", "--nope"], ["sample", "x", "-n", "0"]]
)
def test_a_wrong_command_line_is_the_users(slimctl, arguments):
    ended = slimctl(*arguments)
    assert ended.code == 2
    assert ended.out == ""


def test_no_arguments_print_help(slimctl):
    ended = slimctl()
    assert "submit" in ended.out + ended.err


VERBS = """
import sys
from slimctl.orchestrator.cli.main import main
for words in {verbs!r}:
    sys.argv = ["slimctl", *words]
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    print()
    print("LOADED", *words, code, *[name for name in {heavy!r} if name in sys.modules])
"""


def test_quick_verbs_load_nothing_heavy(tmp_path):
    """One after the other in a fresh process; sizes of published networks are stored, and what
    their training needs in memory is traced once a user.
    """
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        "name: a\njobs:\n  data: {kind: load_dataset, source: digits, size: 32, channels: 3, "
        "labels: false}\n  flow: {kind: train_flow, data: data, network: {preset: cifar10-15.7m}, "
        "steps: 10}\n  pairs: {kind: generate_pairs, flow: flow, count: 10}\n"
    )
    verbs = [
        ["--help"], ["--version"], ["submit", "--help"], ["check", "configs/slimflow.yaml"],
        ["status"], ["kinds"], ["schema"], ["plan", str(file)],
    ]  # fmt: skip
    where = {"SLIMCTL_STORAGE": "/nonexistent", "XDG_CACHE_HOME": str(tmp_path)}
    for named in (verbs[-1:], verbs):
        done = subprocess.run(
            [sys.executable, "-c", VERBS.format(verbs=named, heavy=HEAVY)],
            capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, **where},
            timeout=120,
        )  # fmt: skip
    loaded = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert loaded == [f"LOADED {' '.join(words)} 0" for words in verbs]


def test_the_program_is_the_module_too(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "slimctl", "check", tmp_path / "none.yaml"],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "none.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error():
    """`slimctl schema | head -1`."""
    command = f"{sys.executable} -m slimctl schema | head -1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""
