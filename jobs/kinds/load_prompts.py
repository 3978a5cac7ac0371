"""Reads prompts from outside into the store, or makes them of templates."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from slimctl.jobs.base.artifacts import PromptSet
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError, MissingFile
from slimctl.jobs.base.spec import BY_CONTENT, JobSpec

if TYPE_CHECKING:
    from slimctl.jobs.data.prompts import Prompts

PREFLIGHT_BYTES = 16 * 2**20
"""Sources up to this size are read whole before anything starts; larger ones when the job runs."""


class LoadPrompts(JobSpec):
    """Prompts of a file, cleaned and numbered, or templates with names in them.

    Empty ones are left out and those that are too long are cut; how many is a warning.
    """

    source: Annotated[str | None, BY_CONTENT] = None
    """.txt (a prompt a line), .jsonl (`{"prompt": ...}`), .parquet, a webdataset's .tar (its .txt)
    or COCO's captions .json, or a folder of such files of one ending; null = `templates`."""
    column: str | None = Field(default=None, min_length=1)
    """Column or field of the prompts; null = `prompt`, `caption` or `text`. A field `label` is the
    class that a prompt asks for."""
    templates: tuple[Annotated[str, Field(pattern=r"\{\}")], ...] = ()
    """Such as `a handwritten {}`: each is made with every name, whose number is the label."""
    names: tuple[str, ...] = ()
    """What stands for {}, by label."""
    max_prompts: int | None = Field(default=None, ge=1)
    """Number of prompts to take, from the first; null = all."""
    max_letters: int = Field(default=1000, ge=1)
    """Letters to which longer prompts are cut; how many tokens an encoder takes, it says itself."""
    duplicates: Literal["drop", "keep"] = "drop"
    """Whether prompts that repeat an earlier one, with the same label, are left out."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.source is None) == (not self.templates):
            raise ValueError("give either source, a file of prompts, or templates, not both")
        if bool(self.templates) != bool(self.names):
            raise ValueError("templates and names go together: give both or neither")
        return self

    def run(self, context: JobContext) -> PromptSet:
        from slimctl.jobs.data.prompts import write_prompts

        found = self._read()
        write_prompts(found, context.folder / "prompts.jsonl")
        remarks = found.remarks()
        for remark in remarks:
            context.warn(remark)
        source = "templates" if self.source is None else Path(self.source).name
        context.log(f"{len(found.prompts):,} prompts from {source}")
        return PromptSet(
            count=len(found.prompts),
            classes=found.classes,
            duplicates=found.duplicates,
            source="; ".join([source, *remarks]),
        )

    def _read(self) -> "Prompts":
        from slimctl.jobs.data.prompts import clean, of_templates, prompt_files, read_prompts

        keep = self.duplicates == "keep"
        if self.source is None:
            made = of_templates(self.names, self.templates)
            return clean(made, self.max_letters, self.max_prompts, keep=keep)
        files = prompt_files(self.source)
        return read_prompts(files, self.column, self.max_letters, self.max_prompts, keep=keep)

    def fingerprint(self) -> dict[str, str]:
        from slimctl.jobs.base.fingerprint import content_of_files
        from slimctl.jobs.data.prompts import prompt_files

        if self.source is None:
            return {}
        return {"source": content_of_files(prompt_files(self.source), Path(self.source))}

    def expect(self, inputs: Mapping[str, Facts]) -> Facts:
        from slimctl.jobs.data.prompts import prompt_files

        if self.source is None:
            found = self._read()
            return Facts(count=len(found.prompts), prompt_classes=found.classes)
        try:
            prompt_files(self.source)
        except UserError as error:
            if not Path(self.source).expanduser().exists():
                what = f"there is no file '{self.source}'"
                raise MissingFile("source", what, error.fix) from error
            raise FieldError("source", f"{error.where}: {error.what}", error.fix) from error
        return Facts()

    def preflight(self) -> Facts | None:
        from slimctl.jobs.data.prompts import prompt_files

        if self.source is None:
            return None
        if sum(file.stat().st_size for file in prompt_files(self.source)) > PREFLIGHT_BYTES:
            return None
        found = self._read()
        return Facts(count=len(found.prompts), prompt_classes=found.classes)
