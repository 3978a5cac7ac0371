"""Pipelines to start from: the files of `configs`, which are installed with the package.

Seven have a name of their own for what a user brings; every file is known by its stem as well.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import takewhile

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.registry import nearest

FOLDER = "configs"
ENDING = ".yaml"
NAMES = {
    "digits": "slimflow",
    "my-images": "my_images",
    "edm-teacher": "edm_teacher",
    "slimflow-teacher": "slimflow_teacher",
    "diffusers-teacher": "diffusers_teacher",
    "sweep": "sweep_sizes",
    "fleet": "msd_digits",
}
"""Name of a start -> the stem of its file."""


@dataclass(frozen=True)
class Start:
    """A pipeline file to begin with."""

    name: str
    file: str
    """Its name in `configs`."""
    text: str

    @property
    def about(self) -> str:
        """The first sentence of its first comment."""
        lines = (line.removeprefix("#").strip() for line in self.text.splitlines())
        comment = takewhile(lambda line: line and not line.startswith(("slimctl ", "name:")), lines)
        return re.split(r"(?<=[a-z0-9)])[.:;](?: |$)", " ".join(comment), maxsplit=1)[0]

    def written_as(self, path: str) -> str:
        """The text of a file at `path`: its comments name that one."""
        return self.text.replace(f"{FOLDER}/{self.file}", path)


def starts() -> Mapping[str, Start]:
    """Every pipeline that is installed, by name: what a user brings first, then the rest."""
    folder = files("slimctl").joinpath(FOLDER)
    found = {
        one.name.removesuffix(ENDING): one.read_text(encoding="utf-8")
        for one in folder.iterdir()
        if one.name.endswith(ENDING)
    }
    own = {stem: name for name, stem in NAMES.items()}
    stems = [*NAMES.values(), *sorted(set(found) - set(own))]
    named = {own.get(stem, stem.replace("_", "-")): stem for stem in stems}
    return {name: Start(name, f"{stem}{ENDING}", found[stem]) for name, stem in named.items()}


def start_named(name: str) -> Start:
    """A start by its name or by its file's.

    Raises:
        UserError: there is none.
    """
    known = starts()
    by_file = {one.file.removesuffix(ENDING): one for one in known.values()}
    asked = name.removesuffix(ENDING)
    start = known.get(asked) or by_file.get(asked)
    if start is None:
        fix = f"{nearest(asked, known)}; `slimctl init` lists them"
        raise UserError(f"init {name}", "is no pipeline to start from", fix)
    return start
