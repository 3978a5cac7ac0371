"""The verb that puts results side by side."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator.cli.options import Json, Storage, load, open_store
from slimctl.orchestrator.cli.output import echo

if TYPE_CHECKING:
    from slimctl.jobs.storage.store import Store
    from slimctl.orchestrator.pipeline.pipeline import Pipeline

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
    front: Annotated[
        str | None,
        typer.Option(
            help="Metrics that the Pareto front is of; else fid,latency_ms. Other costs: "
            "parameters, sample_macs (MACs x NFE).",
            show_default=False,
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the first of them against the second (.png).")
    ] = None,
) -> None:
    """Compare measured models: seeds pooled, Pareto front marked, costs counted."""
    from slimctl.orchestrator.cli.tables import print_table
    from slimctl.orchestrator.results import render
    from slimctl.orchestrator.results.collect import collect
    from slimctl.orchestrator.results.lineage import Lineage
    from slimctl.orchestrator.results.pool import compare as compare_results
    from slimctl.orchestrator.results.prices import price_of

    if as_json and form:
        raise UserError("--json", f"cannot go with --format {form}", "choose one of them")
    store, pipelines = _open(things or [], storage)
    found = collect(store, things or [], pipelines)
    names = {Path(file).name for file in pipelines}
    axes = front.split(",") if front else ()
    runs = [one.run for one in found.results if one.run not in names]
    price = price_of(pipelines.values(), store, runs)
    comparison = compare_results(found, Lineage(store), axes, price)
    if plot is not None:
        render.save_plot(comparison, plot)
    if as_json:
        echo(json.dumps(render.as_json(comparison), indent=1))
    elif form == Form.csv:
        echo(render.as_csv(comparison), nl=False)
    elif form:
        write = render.as_markdown if form == Form.md else render.as_latex
        echo(write(*render.table(comparison, protocol=True)), nl=False)
    else:
        print_table(*render.table(comparison))
        echo("\n".join(render.notes(comparison)))


def _open(things: list[str], storage: str | None) -> "tuple[Store, dict[str, Pipeline]]":
    """The store, and the pipelines among the things named: all of one store."""
    from slimctl.jobs.storage.store import Store
    from slimctl.orchestrator.pipeline.pipeline import resolve

    files = [thing for thing in things if thing.endswith(PIPELINES) or Path(thing).is_file()]
    pipelines = {file: resolve(load(Path(file), None, storage)) for file in files}
    stores = {str(Store(pipeline.storage).uri) for pipeline in pipelines.values()}
    if len(stores) > 1:
        raise UserError(
            "compare", f"these files have different stores: {', '.join(sorted(stores))}"
        )
    return (Store(stores.pop()) if stores else open_store(storage)), pipelines
