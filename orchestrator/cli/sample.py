"""The verb that draws samples from a model of the store."""

from pathlib import Path
from typing import Annotated

import typer

from slimctl.orchestrator.cli.options import LIMIT, Storage, open_store
from slimctl.orchestrator.cli.output import echo
from slimctl.orchestrator.cli.show import find_model_id


def sample(
    model: Annotated[str, typer.Argument(help="RUN/JOB or the beginning of an artifact id.")],
    count: Annotated[
        int, typer.Option("-n", "--count", min=1, max=LIMIT, help="Number of samples.")
    ] = 64,
    seed: Annotated[int, typer.Option(min=0, max=LIMIT, help="Seed of noise and labels.")] = 0,
    label: Annotated[
        int | None, typer.Option(min=0, max=LIMIT, help="Class; else the data's mix.")
    ] = None,
    nfe: Annotated[
        int | None,
        typer.Option(min=1, max=LIMIT, help="Euler steps of a flow; else 50.", show_default=False),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="Text of every sample, for a model of texts; else those it learned."),
    ] = None,
    negative: Annotated[
        str | None, typer.Option(help="Text that guidance drives away from; else no text.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="Scale of a flow's guidance, 1 = none.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="A .png or .npz file.")] = Path(
        "samples.png"
    ),
    storage: Storage = None,
) -> None:
    """Draw samples from a flow or a generator into a PNG grid or an .npz file.

    The .npz holds `images`, uint8 (N, H, W, C), and `labels`, int64 (N,) (-1 if unconditional or
    of --prompt).
    """
    from slimctl.jobs.export.samples import Asked, write_samples

    store, asked = open_store(storage), Asked(prompt, negative, guidance)
    write_samples(
        store, find_model_id(store, model), output,
        count=count, seed=seed, label=label, nfe=nfe, asked=asked,
    )  # fmt: skip
    echo(str(output))
