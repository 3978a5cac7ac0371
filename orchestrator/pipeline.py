"""The typed pipeline: made in Python or read from a file, checked the same way by both.

A pipeline that was read knows the lines it came from, so that a mistake found later (a missing
file, unreadable images) is still reported with `file:line`.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pydantic import (
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_serializer,
    model_validator,
)

from slimctl.jobs.base.registry import kind_of
from slimctl.jobs.base.spec import JobSpec, SeededJobSpec
from slimctl.models.spec import Spec
from slimctl.orchestrator.by_object import Objects, objects_in, unnamed, with_names
from slimctl.orchestrator.checks import CheckedJobs, check_jobs, outside_mistakes
from slimctl.orchestrator.document import Document, parse_document, read_document
from slimctl.orchestrator.expansion import Expansion
from slimctl.orchestrator.fields import Subject
from slimctl.orchestrator.groups import Group
from slimctl.orchestrator.messages import NAME_PATTERN, explain
from slimctl.orchestrator.outside import with_absolute_paths
from slimctl.orchestrator.overrides import apply_overrides, override_place
from slimctl.orchestrator.problems import (
    DottedPlaces,
    Mistake,
    PipelineProblems,
    Place,
    Places,
    raise_problems,
)
from slimctl.orchestrator.spelling import spelt_out
from slimctl.orchestrator.telling import told_once
from slimctl.orchestrator.yaml_tree import Node
from slimctl.orchestrator.yaml_writer import yaml_text

STORAGE_VARIABLE = "SLIMCTL_STORAGE"
NO_JOBS = Mistake(("jobs",), "there are no jobs", "add one: 'data: {kind: load_dataset, ...}'")


class Pipeline(Spec):
    """Named jobs that take each other's results.

    Raises:
        PipelineProblems: anything is wrong with it; all mistakes at once.
    """

    name: str = Field(pattern=NAME_PATTERN)
    """Name of the pipeline; its runs are called after it."""
    storage: str = Field(default="./slim-store", min_length=1)
    """Where results are kept: a folder, or any URI that pyarrow.fs opens."""
    tracking: str | None = None
    """MLflow URI; null = SQLite file in a local storage, off for a remote one."""
    seed: int = Field(default=0, ge=0, lt=2**63, strict=True)
    """Seed of the jobs that name none."""
    jobs: Mapping[str, SerializeAsAny[JobSpec | Group]]
    """Name -> a job, or a group of jobs, as written."""

    _places: Places = PrivateAttr(default_factory=DottedPlaces)
    _made: Expansion = PrivateAttr(default_factory=Expansion)
    _objects: Objects = PrivateAttr(default_factory=Objects)

    @property
    def specs(self) -> Mapping[str, JobSpec]:
        """Every job by itself, those of groups too: name -> spec."""
        return self._made.jobs

    @property
    def made(self) -> Expansion:
        """Every job by itself, and where it is from."""
        return self._made

    def name_of(self, job: str | JobSpec) -> str:
        """The name of a job that was given as an object; a name is one already.

        Raises:
            KeyError: the object is not among the jobs that this pipeline was made of.
        """
        return job if isinstance(job, str) else self._objects[id(job)][0]

    @property
    def places(self) -> Places:
        """Where each path of the pipeline was written."""
        return self._places

    def tell(self, mistakes: Iterable[Mistake]) -> None:
        """Raises what is wrong with the jobs, at the places where they were written.

        Raises:
            PipelineProblems: there are mistakes.
        """
        raise_problems(mistake.at(self._places) for mistake in told_once(mistakes, self._made))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with other fields; other jobs are checked as those of a new pipeline.

        Raises:
            PipelineProblems: anything is wrong with the other jobs.
        """
        if update is None or "jobs" not in update:
            return super().model_copy(update=update, deep=deep)
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**fields, **update})

    def with_jobs(
        self, jobs: Mapping[str, JobSpec | Group], specs: Mapping[str, JobSpec]
    ) -> "Pipeline":
        """A copy with other settings of the same jobs.

        Args:
            jobs: as written.
            specs: every job by itself.
        """
        copy = super().model_copy(update={"jobs": jobs})
        groups = {name: job for name, job in jobs.items() if isinstance(job, Group)}
        copy._made = replace(self._made, jobs=dict(specs), groups=groups)  # noqa: SLF001
        return copy

    @model_validator(mode="wrap")
    @classmethod
    def _checked(
        cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        if isinstance(data, cls):
            return data
        places = info.context if isinstance(info.context, Places) else DottedPlaces()
        data, objects = (data, Objects()) if info.context else _by_name(data)
        data, checked = _with_specs(data)
        mistakes = [one for one in checked.mistakes if not (places.draft and one.missing_file)]
        try:
            pipeline = handler(data)
        except ValidationError as error:
            given = data if isinstance(data, Mapping) else {}
            mistakes = [*explain(error, Subject(cls, given)), *mistakes]
        if mistakes and places.reads:
            mistakes += outside_mistakes(checked)
        raise_problems(mistake.at(places) for mistake in mistakes)
        pipeline._places = places  # noqa: SLF001  (of this class)
        pipeline._objects = objects  # noqa: SLF001
        pipeline._made = replace(checked.made, jobs=dict(checked.specs))  # noqa: SLF001
        return pipeline

    @field_serializer("jobs")
    def _with_kinds(self, jobs: Mapping[str, JobSpec | Group]) -> dict[str, Any]:
        return {name: _as_data(job) for name, job in jobs.items()}


def _as_data(job: JobSpec | Group) -> dict[str, Any]:
    data = job.model_dump(mode="json")
    return data if isinstance(job, Group) else {"kind": kind_of(job), **data}


def _by_name(data: Any) -> tuple[Any, Objects]:
    """The fields of a pipeline whose jobs refer to each other by name, and which objects they were.

    Raises:
        PipelineProblems: a job refers to one that is not among them.
    """
    jobs = data.get("jobs") if isinstance(data, Mapping) else None
    if not isinstance(jobs, Mapping):
        return data, Objects()
    objects = objects_in(jobs)
    for name, job in jobs.items():
        if isinstance(job, Group):
            objects.update(job.objects(str(name)))
    written = {name: with_names(job, objects) for name, job in jobs.items()}
    lost = [one for name, job in written.items() for one in unnamed(str(name), job)]
    raise_problems(mistake.at(DottedPlaces()) for mistake in lost)
    return {**data, "jobs": written}, objects


def _with_specs(data: Any) -> tuple[Any, CheckedJobs]:
    """The fields of a pipeline with those jobs that are right as specs, and what is wrong."""
    jobs = data.get("jobs", ...) if isinstance(data, Mapping) else ...
    if isinstance(jobs, Mapping) and jobs:
        checked = check_jobs(jobs)
        right = {**checked.written, **checked.made.groups}
        written = {str(name): right[str(name)] for name in jobs if str(name) in right}
        return {**data, "jobs": written}, checked
    empty = CheckedJobs(Expansion())
    if jobs is None or jobs == {}:
        empty.mistakes.append(NO_JOBS)
        return {**data, "jobs": {}}, empty
    return data, empty


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline and the file that it is from."""

    pipeline: Pipeline
    document: Document


def load_pipeline(
    path: str | Path,
    overrides: Sequence[str] = (),
    storage: str | None = None,
    *,
    draft: bool = False,
    reads: bool = False,
) -> LoadedPipeline:
    """Reads and checks a pipeline file.

    Args:
        path: the file; messages call it by this name.
        overrides: `jobs.student.steps=500` and the like, as given to `--set`.
        storage: used instead of the file's; None = the file's, else `SLIMCTL_STORAGE`, else
            `./slim-store`.
        draft: whether files that it names may be missing: to look at it, not to run it.
        reads: whether the mistakes of a pipeline include those in its files; where it has no
            others, `preflight` reports them.

    Raises:
        PipelineProblems: every mistake in the file and the overrides.
    """
    document = replace(read_document(path), draft=draft, reads=reads)
    return _load(document, overrides, storage)


def parse_pipeline(
    text: str, file: str, overrides: Sequence[str] = (), storage: str | None = None
) -> LoadedPipeline:
    """The same for text that is already read; `file` is what messages call it.

    Raises:
        PipelineProblems: every mistake in the text and the overrides.
    """
    return _load(parse_document(text, file), overrides, storage)


def _load(document: Document, overrides: Sequence[str], storage: str | None) -> LoadedPipeline:
    problems = list(document.problems)
    document, refused = apply_overrides(document, overrides)
    document = _with_storage(document, storage)
    try:
        pipeline = Pipeline.model_validate(document.data, context=document)
    except PipelineProblems as error:
        problems += error.problems
    rank = {override_place(text).file: number for number, text in enumerate(overrides)}
    found = [*problems, *refused]
    raise_problems(sorted(found, key=lambda problem: rank.get(problem.file, -1)))
    return LoadedPipeline(pipeline, document)


def _with_storage(document: Document, storage: str | None) -> Document:
    """Puts in the storage that the command line or the environment names."""
    origin = "--storage"
    if storage is None and document.node(("storage",)) is None:
        origin, storage = STORAGE_VARIABLE, os.environ.get(STORAGE_VARIABLE) or None
    if storage is None:
        return document
    place = Place(origin)
    return document.with_node(("storage",), Node(storage, place, place))


def resolve(pipeline: Pipeline) -> Pipeline:
    """Fills in what a job takes from its surroundings, so that the result says all of it.

    A job that draws and names no seed gets the pipeline's. Fields that hold a path become
    absolute if something is there, `~` being the home folder; other values of such fields stay,
    and so do words that the field names in a `Literal`. Groups stay groups.
    """
    specs = {name: _resolved(spec, pipeline.seed) for name, spec in pipeline.specs.items()}
    jobs = {
        name: spelt_out(name, job, specs, pipeline.made)
        if isinstance(job, Group)
        else _resolved(job, pipeline.seed)
        for name, job in pipeline.jobs.items()
    }
    return pipeline.with_jobs(jobs, specs)


def _resolved(spec: JobSpec, seed: int) -> JobSpec:
    spec = with_absolute_paths(spec)
    if isinstance(spec, SeededJobSpec) and spec.seed is None:
        return spec.model_copy(update={"seed": seed})
    return spec


def to_data(pipeline: Pipeline) -> dict[str, Any]:
    """The pipeline as plain data with every default spelt out; it validates to an equal one."""
    return pipeline.model_dump(mode="json")


def to_yaml(pipeline: Pipeline) -> str:
    """The pipeline as a file with every default spelt out; it loads as an equal one."""
    return yaml_text(to_data(pipeline))
