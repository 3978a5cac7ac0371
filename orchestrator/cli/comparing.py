"""The verb that puts results side by side."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimctl.orchestrator.cli.options import Json, Storage, open_store
from slimctl.orchestrator.cli.output import echo

if TYPE_CHECKING:
    from slimctl.jobs.storage.store import Store
    from slimctl.orchestrator.pipeline import Pipeline

PIPELINES = (".yaml", ".yml")


class Form(StrEnum):
    """How a table is written."""

    md = "md"
    csv = "csv"
    latex = "latex"


def compare(
    things: Annotated[
        list[str] | None,
        typer.Argument(
            help="RUN, RUN/JOB, RUN/GROUP or a pipeline FILE; else the latest run.",
            show_default=False,
        ),
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
    form: Annotated[
        Form | None, typer.Option("--format", help="Print the table for a paper or a program.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw FID against parameters into this file (.png).")
    ] = None,
) -> None:
    """Compare measured models: seeds pooled, Pareto front marked, costs counted."""
    from slimctl.jobs.base.errors import UserError
    from slimctl.orchestrator.comparison.collect import collect
    from slimctl.orchestrator.comparison.lineage import Lineage
    from slimctl.orchestrator.comparison.pool import compare as compare_results
    from slimctl.orchestrator.comparison.table import as_csv, as_latex, as_markdown, table
    from slimctl.orchestrator.comparison.table import as_json as plain

    if as_json and form:
        raise UserError("--json", f"cannot go with --format {form}", "choose one of them")
    store, pipelines = _open(things or [], storage)
    comparison = compare_results(collect(store, things or [], pipelines), Lineage(store))
    if plot is not None:
        from slimctl.orchestrator.comparison.plot import save_plot

        save_plot(comparison, plot)
    if as_json:
        echo(json.dumps(plain(comparison), indent=1))
    elif form == Form.csv:
        echo(as_csv(comparison), nl=False)
    elif form:
        write = as_markdown if form == Form.md else as_latex
        echo(write(*table(comparison, protocol=True)), nl=False)
    else:
        from slimctl.orchestrator.cli.tables import print_table
        from slimctl.orchestrator.comparison.table import notes

        print_table(*table(comparison))
        echo("\n".join(notes(comparison)))


def _open(things: list[str], storage: str | None) -> "tuple[Store, dict[str, Pipeline]]":
    """The store, and the pipelines among the things named: all of one store."""
    from slimctl.jobs.base.errors import UserError
    from slimctl.jobs.storage.store import Store
    from slimctl.orchestrator.cli.options import load
    from slimctl.orchestrator.pipeline import resolve

    files = [thing for thing in things if thing.endswith(PIPELINES) or Path(thing).is_file()]
    pipelines = {file: resolve(load(Path(file), None, storage)) for file in files}
    stores = {str(Store(pipeline.storage).uri) for pipeline in pipelines.values()}
    if len(stores) > 1:
        raise UserError(
            "compare", f"these files have different stores: {', '.join(sorted(stores))}"
        )
    return (Store(stores.pop()) if stores else open_store(storage)), pipelines
