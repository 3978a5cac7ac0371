"""Options that several verbs share, and opening what they name."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimctl.orchestrator.cli.output import echo

if TYPE_CHECKING:
    from slimctl.jobs.storage.store import Store
    from slimctl.orchestrator.pipeline.diagnostics import Problem
    from slimctl.orchestrator.pipeline.pipeline import Pipeline

File = Annotated[Path, typer.Argument(help="Pipeline file (YAML).", show_default=False)]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="Folder or URI of the store (else the file's, else SLIMCTL_STORAGE, else "
        "./slim-store).",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a value: jobs.student.steps=500.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="A running Ray cluster: auto, host:port, or http://host:8265 of its job server. "
        "Without it a private Ray is started.",
        show_default=False,
    ),
]
Detach = Annotated[
    bool,
    typer.Option("--detach", help="Return as soon as the cluster has the run (with --address)."),
]
Run = Annotated[
    str | None, typer.Argument(help="Run id or its beginning; else the latest.", show_default=False)
]

ExpectGpus = Annotated[
    int | None,
    typer.Option(
        "--expect-gpus",
        help="GPUs that the cluster starts on request: jobs are laid out for so many and wait "
        "until they are there. Instead of the file's resources; 0 = those that are there.",
        min=0,
        show_default=False,
    ),
]

LIMIT = 2**63 - 1
"""Largest whole number of an option: what is made of it keeps 64 bits with a sign."""
DEFAULT_TFLOPS = 40.0
"""Assumed sustained rate of a GPU, 1e12 operations per second: about an eighth of the 312 that an
A100 does at best in bfloat16, since small U-Nets at 32 to 64 px leave most of it idle."""
Tflops = Annotated[
    float | None,
    typer.Option(
        "--tflops",
        help=f"Assumed rate of a GPU for GPU-hours, 1e12 FLOP/s; {DEFAULT_TFLOPS:g} where this "
        "machine has a GPU.",
        min=1e-3,
        show_default=False,
    ),
]

DEFAULT_STORAGE = "./slim-store"


def load(
    file: Path,
    overrides: list[str] | None,
    storage: str | None,
    *,
    draft: bool = False,
    reads: bool = False,
    expect_gpus: int | None = None,
) -> "Pipeline":
    """Reads and checks a pipeline file; every mistake is reported at once.

    `expect_gpus` takes the place of the file's number of GPUs. A draft may name files that are not
    there; one that `reads` looks into them if anything is wrong, so that it is reported together
    with what is wrong in them.

    Raises:
        UserError: the file has mistakes.
    """
    from slimctl.jobs.base.cluster import Resources
    from slimctl.orchestrator.pipeline.pipeline import load_pipeline

    pipeline = load_pipeline(file, overrides or (), storage, draft=draft, reads=reads).pipeline
    if expect_gpus is None:
        return pipeline
    expected = (pipeline.resources or Resources(gpus=0)).model_copy(update={"gpus": expect_gpus})
    return pipeline.model_copy(update={"resources": expected})


@contextmanager
def mistakes_as_json(wanted: bool) -> Iterator[None]:
    """Prints the mistakes of a pipeline on stdout as a JSON list too, if that is wanted."""
    from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems

    try:
        yield
    except PipelineProblems as error:
        if wanted:
            echo(json.dumps([asdict(problem) for problem in error.problems], indent=1))
        raise


def warn(warnings: "Iterable[Problem]") -> None:
    """Says on stderr the warnings about a pipeline."""
    from slimctl.orchestrator.pipeline.diagnostics import as_warning

    for warning in warnings:
        typer.echo(as_warning(warning), err=True)


def open_store(storage: str | None) -> "Store":
    """The store of a verb without a pipeline file."""
    from slimctl.jobs.storage.store import Store

    return Store(storage or os.environ.get("SLIMCTL_STORAGE") or DEFAULT_STORAGE)
