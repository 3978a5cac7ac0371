"""The program `slimctl`: its verbs, and what becomes of errors.

Exit 0 ok, 1 our bug, 2 the user's input, 3 a damaged artifact, 4 a job failed, 130 interrupted.
"""

import io
import sys

import typer

from jobs.base.errors import SlimError, UserError
from orchestrator.cli import (
    browse,
    comparing,
    control,
    listing,
    logs,
    reporting,
    run,
    sampling,
    shipping,
    upkeep,
)

app = typer.Typer(
    name="slimctl",
    help="Turn big diffusion and flow teachers into tiny one-step generators, on any Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (
    run.check,
    run.plan,
    run.submit,
    browse.status,
    browse.show,
    comparing.compare,
    reporting.report,
    logs.logs,
    control.cancel,
    control.resume,
    upkeep.verify,
    upkeep.gc,
    upkeep.doctor,
    sampling.sample,
    shipping.export,
    listing.kinds,
    listing.presets,
    listing.schema,
):
    app.command()(verb)


def main() -> None:
    """Runs the command line and turns errors into messages and exit codes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files are bytes
    try:
        app()
    except SlimError as error:
        typer.echo(str(error), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            sys.stderr.close()
            sys.exit(0)
        place = f"{error.filename}: " if error.filename else ""
        typer.echo(f"{place}{error.strerror or error}", err=True)
        typer.echo("  fix: check that the place exists, may be used and is not full", err=True)
        sys.exit(UserError.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
