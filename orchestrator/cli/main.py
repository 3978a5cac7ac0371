"""The program `slimctl`: its verbs, and what becomes of errors.

Exit 0 ok, 1 our bug, 2 the user's input, 3 a damaged artifact, 4 a job failed, 130 interrupted,
143 or 138 ended by SIGTERM or SIGUSR1, 129 left by its terminal (SIGHUP).
"""

import sys
import warnings
from typing import Annotated

import typer

import slimctl
from slimctl.jobs.base.errors import SlimError, UserError
from slimctl.orchestrator.cli.cancel import cancel
from slimctl.orchestrator.cli.check import check
from slimctl.orchestrator.cli.compare import compare
from slimctl.orchestrator.cli.doctor import doctor
from slimctl.orchestrator.cli.export import export
from slimctl.orchestrator.cli.gc import gc
from slimctl.orchestrator.cli.init import init
from slimctl.orchestrator.cli.kinds import kinds
from slimctl.orchestrator.cli.launch import launch
from slimctl.orchestrator.cli.logs import logs
from slimctl.orchestrator.cli.output import echo, only_data, open_standard_streams, stop_on_signals
from slimctl.orchestrator.cli.plan import plan
from slimctl.orchestrator.cli.presets import presets
from slimctl.orchestrator.cli.report import report
from slimctl.orchestrator.cli.resume import resume
from slimctl.orchestrator.cli.sample import sample
from slimctl.orchestrator.cli.schema import schema
from slimctl.orchestrator.cli.show import show
from slimctl.orchestrator.cli.status import status
from slimctl.orchestrator.cli.submit import submit
from slimctl.orchestrator.cli.verify import verify

app = typer.Typer(
    name="slimctl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        echo(f"slimctl {slimctl.__version__}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_say_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Turn big diffusion and flow teachers into tiny one-step generators, on any Ray cluster."""


for verb in (
    init,
    check,
    plan,
    submit,
    launch,
    status,
    show,
    compare,
    report,
    logs,
    cancel,
    resume,
    verify,
    gc,
    doctor,
    sample,
    export,
    kinds,
    presets,
    schema,
):
    app.command()(only_data(verb))


def main() -> None:
    """Runs the command line and turns errors into messages and exit codes."""
    open_standard_streams()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries to those who program with them
    stop_on_signals()
    try:
        app()
    except SlimError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        typer.echo(f"{place}{error.strerror or error}", err=True)
        typer.echo("  fix: check that the place exists, may be used and is not full", err=True)
        sys.exit(UserError.exit_code)
