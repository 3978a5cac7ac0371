"""Parts of the site that are made from the code whenever it is built, so that they never go stale.

A page says where they go: `<!-- every kind -->`, `<!-- every command -->`, `<!-- presets -->`.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import typer

from slimctl.jobs.base.registry import kind_names, load_kind
from slimctl.jobs.base.spec import JobSpec, output_type
from slimctl.models.networks.presets import PRESETS
from slimctl.orchestrator.cli.kind_fields import fields_of
from slimctl.orchestrator.cli.main import app

LARGE = str(2**63)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs with the text of each page."""
    for marker, made in PARTS.items():
        if marker in markdown:
            markdown = markdown.replace(marker, "\n".join(made()))
    return markdown


def every_kind() -> Iterator[str]:
    """A section for each job kind: what it makes, what it does, its fields."""
    for name in kind_names():
        spec = load_kind(name)
        yield f"\n### {name}\n\nMakes `{output_type(spec).__name__}`.\n"
        yield _text(inspect.getdoc(spec) or "")
        yield from _fields(spec)


def _fields(spec: type[JobSpec]) -> Iterator[str]:
    fields = fields_of(spec)
    rows = ((f"`{f.name}`", f.type.replace(LARGE, "2^63"), f.default, f.about) for f in fields)
    yield from _table(("field", "what it takes", "default", "meaning"), rows)


def every_command() -> Iterator[str]:
    """A section for each command: its usage and options."""
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        usage = command.get_usage(typer.Context(command, info_name=f"slimctl {name}"))
        yield f"\n### slimctl {name}\n\n```\n{usage.removeprefix('Usage: ')}\n```\n"
        yield _text(command.help or "")
        rows = (
            (f"`{', '.join(_spellings(one))}`", getattr(one, "help", None) or "")
            for one in command.params
            if not getattr(one, "hidden", False)
        )
        yield from _table(("argument or option", "meaning"), rows)


def _spellings(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        name = parameter.name.upper()
        return [name if parameter.required else f"[{name}]"]
    return [*parameter.opts, *parameter.secondary_opts]


def presets() -> Iterator[str]:
    """The published networks with their size and cost."""
    rows = (
        (f"`{one.name}`", f"`{one.family}`", f"{one.parameters:,}", f"{one.macs / 1e9:.3f}")
        for one in PRESETS.values()
    )
    yield from _table(("preset", "family", "parameters", "GMAC"), rows)


def _table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    lines = [_row(row) for row in rows]
    if lines:
        yield f"\n{_row(head)}\n|{'---|' * len(head)}"
        yield from lines
        yield ""


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(_escaped(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _text(docstring: str) -> str:
    """A Google docstring as Markdown: its sections become paragraphs."""
    plain = re.sub(r"^(\w+):\n((?:    .+\n?)+)", _section, docstring, flags=re.MULTILINE)
    return f"{_escaped(plain)}\n"


def _section(found: re.Match[str]) -> str:
    return f"**{found[1]}**: {' '.join(found[2].split())}\n"


def _escaped(text: str) -> str:
    """Text whose angle brackets are no tags; code between backticks stays as it is."""
    parts = text.split("`")
    parts[::2] = [part.replace("<", "&lt;").replace(">", "&gt;") for part in parts[::2]]
    return "`".join(parts)


PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "<!-- every kind -->": every_kind,
    "<!-- every command -->": every_command,
    "<!-- presets -->": presets,
}
