"""The typed pipeline: made in Python or read from a file, checked the same way by both.

A pipeline that was read knows the lines it came from, so that a mistake found later (a missing
file, unreadable images) is still reported with `file:line`.
"""

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import (
    BaseModel,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_serializer,
    model_validator,
)

from slimctl.jobs.base.cluster import Resources
from slimctl.jobs.base.registry import kind_of
from slimctl.jobs.base.spec import BY_CONTENT, JobSpec, SeededJobSpec
from slimctl.jobs.search.spec import SearchSpec
from slimctl.models.spec import Spec
from slimctl.orchestrator.pipeline.diagnostics import (
    DottedPlaces,
    Mistake,
    PipelineProblems,
    Place,
    Places,
    raise_problems,
)
from slimctl.orchestrator.pipeline.explain import NAME_PATTERN, Subject, explain, types_in
from slimctl.orchestrator.pipeline.groups import Expansion, Group, said_once, spelt_out
from slimctl.orchestrator.pipeline.link import link, outside_mistakes, read_jobs
from slimctl.orchestrator.pipeline.objects import Objects, objects_in, unnamed, with_names
from slimctl.orchestrator.pipeline.operations import Budget, Notify, Price
from slimctl.orchestrator.pipeline.overrides import apply_overrides, override_place
from slimctl.orchestrator.pipeline.recipes import with_recipes
from slimctl.orchestrator.pipeline.source import (
    Document,
    Node,
    parse_document,
    read_document,
    yaml_text,
)

SpecT = TypeVar("SpecT", bound=BaseModel)
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
    resources: Resources | None = None
    """`{gpus: 8}`: GPUs that the cluster starts on request: jobs are laid out for them, and wait
    until they are there. null = what is there."""
    price: Price | None = None
    """`{gpu_hour: 2.5, cpu_hour: 0.05}`: for the costs of plans and results. null = none are
    shown."""
    budget: Budget | None = None
    """`{cost: 50}`, `{gpu_hours: 20}`, `{time: 8h}`: a run stops at a checkpoint before it takes
    more. null = as much as it needs."""
    notify: Notify | None = None
    """Channels that hear when a run starts, fails, ends or stalls. null = none."""
    jobs: Mapping[str, SerializeAsAny[JobSpec | Group]]
    """Name -> a job, or a group of jobs, as written."""

    @model_validator(mode="after")
    def _budget_has_a_price(self) -> Self:
        if self.budget is not None and self.budget.cost is not None and self.price is None:
            raise ValueError("budget.cost needs a price: add 'price: {gpu_hour: ...}'")
        return self

    _places: Places = PrivateAttr(default_factory=DottedPlaces)
    _made: Expansion = PrivateAttr(default_factory=Expansion)
    _objects: Objects = PrivateAttr(default_factory=Objects)

    @property
    def specs(self) -> Mapping[str, JobSpec]:
        """Every job by itself, those of groups and of some trials of searches too: name -> spec."""
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
        raise_problems(mistake.at(self._places) for mistake in said_once(mistakes, self._made))

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
        """A copy with other settings of the same jobs."""
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
        given = data.get("jobs", ...) if isinstance(data, Mapping) else ...
        jobs = read_jobs(given if isinstance(given, Mapping) else {})
        linked = link(jobs)
        mistakes = said_once([*jobs.mistakes, *linked.mistakes], jobs.made)
        mistakes = [one for one in mistakes if not (places.draft and one.missing_file)]
        if given is None or given == {}:
            mistakes.append(NO_JOBS)
        if given is None or isinstance(given, Mapping):
            right = {**jobs.specs, **jobs.made.groups}
            names = map(str, given or ())
            data = {**data, "jobs": {name: right[name] for name in names if name in right}}
        try:
            pipeline = handler(data)
        except ValidationError as error:
            fields = data if isinstance(data, Mapping) else {}
            mistakes = [*explain(error, Subject(cls, fields)), *mistakes]
        if mistakes and places.reads:
            specs = {name: with_absolute_paths(spec) for name, spec in linked.specs.items()}
            read = outside_mistakes(jobs, replace(linked, specs=specs), mistakes)
            known = {mistake.path for mistake in mistakes}
            mistakes += [one for one in said_once(read, jobs.made) if one.path not in known]
        raise_problems(mistake.at(places) for mistake in mistakes)
        pipeline._places = places  # noqa: SLF001  (of this class)
        pipeline._objects = objects  # noqa: SLF001
        pipeline._made = replace(jobs.made, jobs=dict(linked.specs))  # noqa: SLF001
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
    document, wrong = with_recipes(document)
    problems += wrong
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
    specs = {
        name: _resolved(spec, _seed(pipeline, pipeline.made.owner(name)))
        for name, spec in pipeline.specs.items()
    }
    jobs = {
        name: spelt_out(name, job, specs, pipeline.made)
        if isinstance(job, Group)
        else _resolved(job, pipeline.seed)
        for name, job in pipeline.jobs.items()
    }
    return pipeline.with_jobs(jobs, specs)


def _seed(pipeline: Pipeline, job: str) -> int:
    """The seed of a job that names none, such as of those of a search's trials."""
    own = getattr(pipeline.specs[job], "seed", None)
    return pipeline.seed if own is None else own


def _resolved(spec: JobSpec, seed: int) -> JobSpec:
    spec = with_absolute_paths(spec)
    if isinstance(spec, SeededJobSpec) and spec.seed is None:
        return spec.model_copy(update={"seed": seed})
    return spec


def with_absolute_paths(spec: SpecT) -> SpecT:
    """The spec with the paths of files that are there from the root, `~` being the home folder."""
    changes: dict[str, Any] = {}
    for name, info in type(spec).model_fields.items():
        value = getattr(spec, name)
        if BY_CONTENT in info.metadata and isinstance(value, str):
            if value in types_in(info.annotation):
                continue  # one of the words that the field's Literal reserves
            changes[name] = _absolute(value)
        elif isinstance(value, BaseModel):
            changes[name] = with_absolute_paths(value)
    if isinstance(spec, SearchSpec):
        changes["jobs"] = _absolute_templates(spec)
    changes = {name: value for name, value in changes.items() if value is not getattr(spec, name)}
    return spec.model_copy(update=changes) if changes else spec


def _absolute_templates(search: SearchSpec) -> dict[str, Any]:
    """The jobs of a search with absolute paths where the templates name files as such."""
    jobs = copy.deepcopy(search.jobs)
    for specs in search.corners():
        for name, spec in specs.items():
            _replace(jobs[name], spec, with_absolute_paths(spec))
    return search.jobs if jobs == search.jobs else jobs


def _replace(template: dict[str, Any], spec: BaseModel, absolute: BaseModel) -> None:
    """Puts what differs between two specs into a template that holds the value of the first."""
    for name in type(spec).model_fields:
        old, new, held = getattr(spec, name), getattr(absolute, name), template.get(name)
        if isinstance(new, BaseModel) and isinstance(held, dict) and new is not old:
            _replace(held, old, new)
        elif new is not old and held == old:
            template[name] = new


def _absolute(value: str) -> str:
    """The path from the root, if something is there or could match its wildcards."""
    try:
        path = Path(value).expanduser()
        known = tuple(takewhile(lambda part: not set("*?[{") & set(part), path.parts))
        there = path.exists() or (path.parts != known and Path(*known).is_dir())
        return str(path.absolute()) if there else value
    except (OSError, ValueError, RuntimeError):  # no path at all
        return value


def to_data(pipeline: Pipeline) -> dict[str, Any]:
    """The pipeline as plain data with every default spelt out; it validates to an equal one."""
    return pipeline.model_dump(mode="json")


def to_yaml(pipeline: Pipeline) -> str:
    """The pipeline as a file with every default spelt out; it loads as an equal one."""
    return yaml_text(to_data(pipeline))
