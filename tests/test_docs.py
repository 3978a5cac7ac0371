"""What a reader of the repository is shown: links that lead somewhere, and plain words."""

import inspect
import json
import re
from pathlib import Path

import pytest
import typer

import slimctl
from slimctl.jobs.base.registry import kind_names, load_kind
from slimctl.orchestrator.cli.kind_fields import field_lines
from slimctl.orchestrator.cli.main import app
from slimctl.orchestrator.pipeline.schema import pipeline_schema

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks/README.md"])
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
NOT_OURS = re.compile(
    r"\b(?<!--)(said|mend(s|ed|ing)?|doubt(s|ful)?|wish(es|ed)?|last breath)\b", re.IGNORECASE
)
"""Words for which the field has others: reported, repair or fix, warning, request."""


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(path):
    links = LINK.findall(path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_the_documents_name_the_version():
    version = slimctl.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}] - " in (ROOT / "CHANGELOG.md").read_text()


def test_the_makefile_explains_every_target():
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    assert [name for name in targets if name != "help" and f'"make {name} ' not in text] == []


def test_the_page_of_kinds_names_every_kind():
    assert [
        name for name in kind_names() if f"| [`{name}`](#{name}) |" not in page("kinds.md")
    ] == []


def test_the_page_of_python_has_every_public_name():
    documented = re.findall(r"^::: slimctl\.(?:\S+\.)?(\w+)$", page("python.md"), re.MULTILINE)
    assert set(slimctl.__all__) - {"__version__"} <= set(documented)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_pages_use_the_words_of_the_field(path):
    assert [found[0] for found in NOT_OURS.finditer(path.read_text())] == []


def test_the_program_uses_the_words_of_the_field():
    commands = typer.main.get_command(app).commands
    texts = [
        text or ""
        for command in commands.values()
        for text in (command.help, *(getattr(one, "help", "") for one in command.params))
    ]
    for name in kind_names():
        kind = load_kind(name)
        texts += [kind.__doc__ or "", *field_lines(kind)]
    texts += json.dumps(pipeline_schema(), indent=1).splitlines()
    texts += [inspect.getdoc(getattr(slimctl, name)) or "" for name in slimctl.__all__]
    assert [text for text in texts if NOT_OURS.search(text)] == []
