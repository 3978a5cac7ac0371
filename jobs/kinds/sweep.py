"""Searches over the settings of some jobs: each trial runs them once with its values."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from slimctl.jobs.base.artifacts import Handle, SweepReport, Trial, numbers_of
from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Doubt, Facts, FieldError, FieldErrors
from slimctl.jobs.base.placeholders import in_words, placeholders
from slimctl.jobs.base.refs import Ref
from slimctl.jobs.base.registry import load_kind, nearest
from slimctl.jobs.base.spec import SPEED_ONLY, Placement, SeededJobSpec, output_type
from slimctl.jobs.base.subgraph import outside_names, trial_specs
from slimctl.jobs.search.spec import Asha, Dimension, Grid, Limit, Random, Search
from slimctl.jobs.training.spec import TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slimctl.jobs.base.spec import JobSpec
    from slimctl.jobs.search.check import Findings
    from slimctl.jobs.search.trial import SweepTask


class Sweep(SeededJobSpec):
    """Runs a group of jobs once per trial, over a space of settings, and chooses the best.

    Placeholders and names are those of a group: `${width}` is the trial's value, a job names its
    siblings. What trials have in common is made once, and what a trial makes is an artifact like
    any other.
    """

    placement: ClassVar[Placement] = "own"

    space: dict[str, Dimension] = Field(min_length=1)
    """Variable -> `{choice: [...]}`, `{uniform: [low, high]}`, `{loguniform: [low, high]}` or
    `{randint: [low, high]}`."""
    jobs: dict[str, Any] = Field(min_length=1)
    """Name -> job, with placeholders such as `${width}` in any field."""
    search: Search = Grid()
    """How trials are chosen."""
    minimize: str | None = None
    """The number to make small, as `JOB.FIELD`."""
    pareto: tuple[str, ...] = ()
    """Several numbers to make small, as `JOB.FIELD`: no single trial is chosen, their front is."""
    subject_to: dict[str, Limit] = Field(default_factory=dict)
    """Limits, `JOB.FIELD: {max: ...}`; sizes beyond them are never trained."""
    scheduler: Asha | None = None
    """`{kind: asha, watch: JOB, grace_period: STEPS}` stops trials whose training falls behind;
    null = every trial runs to its end."""
    parallel: Annotated[int, Field(ge=1), SPEED_ONLY] = 4
    """Trials that may be under way at once; their jobs start as devices are free."""
    outside: tuple[str, ...] = ()
    """Names of the jobs outside that `jobs` name; found there, never to be given."""
    inputs: tuple[Ref[Handle], ...] = ()
    """The same as references, so that they are made first; never to be given."""

    @model_validator(mode="before")
    @classmethod
    def _with_inputs(cls, data: Any) -> Any:
        """Finds the jobs outside that the trials need."""
        jobs = data.get("jobs") if isinstance(data, dict) else None
        if not isinstance(jobs, dict):
            return data
        space = data.get("space")
        choices = _choices(space) if isinstance(space, dict) else {}
        for name, job in jobs.items():
            _check_template(name, job)
        try:
            names = outside_names(jobs, choices)
        except UserError as error:
            raise FieldError("jobs", error.what, error.fix) from error
        known = list(data.get("outside") or ()) == names
        inputs = data["inputs"] if known and data.get("inputs") else names
        return {**data, "outside": names, "inputs": inputs}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        used = {name for _, name in placeholders(self.jobs)}
        for name in sorted(used - set(self.space)):
            raise FieldError("jobs", f"the space has no '{name}'", nearest(name, self.space))
        for name in self.space:
            if name not in used:
                what = f"no job uses {name}, so all its values give the same"
                raise FieldError(f"space.{name}", what, f"write '${{{name}}}' in a field of a job")
        if isinstance(self.search, Grid):
            for name, one in self.space.items():
                if one.choice is None:
                    fix = "use choice, or search: {kind: random, trials: ...}"
                    raise FieldError(f"space.{name}", "a grid needs values to choose from", fix)
        if (self.minimize is None) == (not self.pareto):
            what = "say what to look for: either minimize or pareto"
            raise FieldError("minimize", what, "write e.g. minimize: quality.fid")
        for field, goal in self._goals():
            self._check_goal(field, goal)
        if self.scheduler is not None:
            _check_watched(self.scheduler, self.jobs)
        return self

    def _goals(self) -> "Iterator[tuple[str, str]]":
        yield from [("minimize", self.minimize)] if self.minimize else []
        yield from (("pareto", goal) for goal in self.pareto)
        yield from (("subject_to", goal) for goal in self.subject_to)

    def _check_goal(self, field: str, goal: str) -> None:
        job, _, name = goal.rpartition(".")
        if job not in self.jobs:
            what = f"no job makes '{goal}': there is no job '{job}'"
            raise FieldError(field, what, f"write JOB.FIELD; {nearest(job, self.jobs)}")
        made = output_type(load_kind(self.jobs[job]["kind"]))
        known = numbers_of(made)
        if name not in known:
            fix = nearest(name, known) if known else "name another job"
            raise FieldError(field, f"'{job}' makes a {made.__name__}, which has no '{name}'", fix)

    @property
    def objectives(self) -> tuple[str, ...]:
        """What is to be small."""
        return (self.minimize,) if self.minimize else self.pareto

    def corners(self) -> "Iterator[tuple[str, JobSpec]]":
        """The jobs of trials at the ends of every variable, by name; those that differ only."""
        seen = set()
        for values in self._corners():
            try:
                specs = trial_specs(self.jobs, values, self.seed)
            except (UserError, ValueError):
                continue  # `expect` tells why
            for name, spec in specs.items():
                if (name, repr(spec)) not in seen:
                    seen.add((name, repr(spec)))
                    yield name, spec

    def fingerprint(self) -> dict[str, str]:
        """Content of the files of its jobs, and the versions of their kinds."""
        found: dict[str, set[str]] = {}
        for name, spec in self.corners():
            found.setdefault(f"{name}.version", set()).add(str(spec.version))
            for field, content in spec.fingerprint().items():
                found.setdefault(f"{name}.{field}", set()).add(content)
        return {key: ",".join(sorted(contents)) for key, contents in found.items()}

    def preflight(self) -> Facts | None:
        from slimctl.jobs.search.check import read_outside

        errors = read_outside(self.corners())
        if errors:
            raise FieldErrors(errors, Facts())
        return None

    def needs(self, cluster: Cluster) -> Needs:
        """The whole cluster: the trials' jobs share it among themselves."""
        return Needs(cpus=cluster.cpus, gpus=cluster.gpus)

    def expect(self, inputs: "Mapping[str, Facts]") -> Facts:
        """Builds the jobs of some trials, those at the ends of every variable, and checks them."""
        if len(inputs) != len(self.outside):
            what = f"one of the names {', '.join(self.outside)} means several jobs"
            raise FieldError("jobs", what, "name one job of the group")
        found = self._look(inputs)
        if found.errors:
            raise FieldErrors(found.errors, Facts())
        return Facts()

    def doubts(self, inputs: "Mapping[str, Facts]") -> list[Doubt]:
        """What is doubtful about the jobs of the trials."""
        return self._look(inputs).doubts

    def _look(self, inputs: "Mapping[str, Facts]") -> "Findings":
        from slimctl.jobs.search.check import look_at

        known = {name: inputs[f"inputs.{at}"] for at, name in enumerate(self.outside)}
        return look_at(self.jobs, self._corners(), self.seed, known)

    def _corners(self) -> "Iterator[dict[str, Any]]":
        ends = {name: one.ends() for name, one in self.space.items()}
        first = {name: values[0] for name, values in ends.items()}
        yield first
        for name, values in ends.items():
            yield from ({**first, name: value} for value in values[1:])

    def run(self, context: JobContext) -> SweepReport:
        from slimctl.jobs.search.choose import best, front
        from slimctl.jobs.search.tune import try_candidates

        task, candidates = self._task(context), self._candidates()
        if candidates is None:
            trials = self._searched(task)
        else:
            self._check_sizes(task, candidates)
            trials = try_candidates(task, candidates, self.parallel)
        if all(trial.state != "done" for trial in trials):
            why = f"; the first: {trials[0].why}" if trials else ""
            raise UserError(f"job '{context.job}'", f"no trial was finished{why}")
        for trial in trials:
            if trial.state == "failed":
                context.warn(f"the trial {in_words(trial.values)} failed: {trial.why}")
        chosen = best(trials, self.minimize, self.subject_to) if self.minimize else None
        if self.minimize and chosen is None:
            context.warn("no trial meets the limits, so none is chosen")
        return SweepReport(
            objectives=self.objectives,
            trials=tuple(trials),
            chosen=chosen,
            front=front(trials, self.objectives, self.subject_to),
        )

    def _task(self, context: JobContext) -> "SweepTask":
        from slimctl.jobs.search.trial import SweepTask

        assert context.runner is not None
        handles = [context.input(ref) for ref in self.inputs]
        candidates = self._candidates()
        return SweepTask(
            context.job,
            context.artifact_id,
            self.jobs,
            {name: handle.id for name, handle in zip(self.outside, handles, strict=True)},
            self.subject_to,
            self.seed or 0,
            context.store,
            context.cluster,
            context.runner,
            context.reporter,
            getattr(self.search, "trials", 0) if candidates is None else len(candidates),
            self.objectives,
            self.scheduler,
            self._longest(),
        )

    def _longest(self) -> int:
        """Most optimizer steps of the job that is watched; 1 where none is."""
        if self.scheduler is None:
            return 1
        name = self.scheduler.watch
        longest = self.scheduler.grace_period
        for values in self._corners():
            spec = trial_specs(self.jobs, values, self.seed)[name]
            assert isinstance(spec, TrainingSpec)  # nothing else takes scores
            longest = max(longest, spec.steps)
        return longest

    def _candidates(self) -> "list[dict[str, Any]] | None":
        """What is tried, where that is known before anything runs."""
        from slimctl.jobs.search.candidates import grid, random

        if isinstance(self.search, Grid):
            return grid(self.space)
        if isinstance(self.search, Random):
            return random(self.space, self.search.trials, self.seed or 0)
        return None

    def _searched(self, task: "SweepTask") -> list[Trial]:
        from slimctl.jobs.search.spec import OptunaSearch
        from slimctl.jobs.search.tune import search

        assert isinstance(self.search, OptunaSearch)
        return search(task, self.space, self.search, self.objectives, self.parallel)

    def _check_sizes(self, task: "SweepTask", candidates: "list[dict[str, Any]]") -> None:
        """Refuses limits that no candidate can meet, before anything is trained."""
        from slimctl.jobs.search.sizes import beyond, distance, latency_on, sizes_known
        from slimctl.jobs.search.trial import CANNOT_BE

        handles, latency, sizes = task.handles(), latency_on(task.cluster), []
        for values in candidates:
            try:
                specs = trial_specs(self.jobs, values, self.seed)
                known = sizes_known(specs, handles, task.limits, latency)
            except CANNOT_BE:
                return  # its trial will say so
            if not beyond(known, task.limits):
                return
            sizes.append((distance(known, task.limits), known, values))
        _, known, values = min(sizes, key=lambda one: one[0])
        nearest_size = f"{in_words(values)}: {beyond(known, task.limits)}"
        raise UserError(
            f"job '{task.job}', subject_to",
            f"no size meets the limits; the nearest is {nearest_size}",
            "raise the limit, or add smaller sizes to the space",
        )


def _choices(space: "Mapping[str, Any]") -> dict[str, list[Any]]:
    found = {}
    for name, one in space.items():
        values = one.get("choice") if isinstance(one, dict) else getattr(one, "choice", None)
        found[name] = list(values) if isinstance(values, (list, tuple)) else []
    return found


def _check_template(name: str, job: Any) -> None:
    if not isinstance(job, dict) or not isinstance(job.get("kind"), str):
        raise FieldError(f"jobs.{name}", f"'{name}' must be a mapping with 'kind'", "add 'kind'")
    if "${" in job["kind"]:
        raise FieldError(f"jobs.{name}.kind", "a kind cannot be searched over", "name a kind")


def _check_watched(scheduler: Asha, jobs: "Mapping[str, Any]") -> None:
    """Raises FieldError where a job takes no scores, or takes the first one too late."""
    name = scheduler.watch
    if name not in jobs:
        what = f"no job of the trials is '{name}'"
        raise FieldError("scheduler.watch", what, nearest(name, jobs))
    fields = load_kind(jobs[name]["kind"]).model_fields
    if "score_every" not in fields:
        kind = jobs[name]["kind"]
        what = f"'{name}' ({kind}) takes no scores while it runs"
        fix = "watch an anneal_reflow, a distill or a match_distribution"
        raise FieldError("scheduler.watch", what, fix)
    if jobs[name].get("data") is None:
        fix = f"give '{name}' data, and features for a KID"
        raise FieldError("scheduler.watch", f"'{name}' takes no scores: it has no data", fix)
    every = jobs[name].get("score_every", fields["score_every"].default)
    if isinstance(every, int) and every > scheduler.grace_period:
        what = f"'{name}' takes its first score after {every} steps"
        fix = f"use at least {every}, or lower score_every of '{name}'"
        raise FieldError("scheduler.grace_period", what, fix)
