"""Searches over the settings of some jobs: each trial runs them once with its values."""

from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from slimctl.jobs.base.artifacts import QualityReport, SweepReport, Trial, numbers_of
from slimctl.jobs.base.context import JobContext
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.facts import Facts, FieldError, SpecWarning
from slimctl.jobs.base.placeholders import in_words
from slimctl.jobs.base.registry import load_kind, nearest
from slimctl.jobs.base.spec import JobSpec, output_type
from slimctl.jobs.search.spec import Asha, Grid, SearchSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class Sweep(SearchSpec):
    """Runs a group of jobs once per trial, over a space of settings, and chooses the best.

    Placeholders and names are those of a group: `${width}` is the trial's value, a job names its
    siblings. What trials have in common is made once, and what a trial makes is an artifact like
    any other.
    """

    minimize: str | None = None
    """The number to make small, as `JOB.FIELD`."""
    pareto: tuple[str, ...] = ()
    """Several numbers to make small, as `JOB.FIELD`: no single trial is chosen, their front is."""

    @model_validator(mode="before")
    @classmethod
    def _without_names(cls, data: Any) -> Any:
        """Takes what versions before 0.2 saved: it said which jobs outside the trials name."""
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if key not in ("outside", "inputs")}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
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
        try:
            self.outside()
        except UserError as error:
            if error.where:  # an unknown kind is reported where it stands
                raise FieldError(error.where, error.what, error.fix) from error
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
        kind = _kind(self.jobs[job])
        made = output_type(kind) if kind else None
        known = numbers_of(made) if made else ()
        if made and name not in known:
            fix = nearest(name, known) if known else "name another job"
            raise FieldError(field, f"'{job}' makes a {made.__name__}, which has no '{name}'", fix)

    @property
    def objectives(self) -> tuple[str, ...]:
        """What is to be small."""
        return (self.minimize,) if self.minimize else self.pareto

    def fingerprint(self) -> dict[str, str]:
        """Content of the files of its jobs, and the versions of their kinds."""
        found: dict[str, set[str]] = {}
        for specs in self.corners():
            for name, spec in specs.items():
                found.setdefault(f"{name}.version", set()).add(str(spec.version))
                for field, content in spec.fingerprint().items():
                    found.setdefault(f"{name}.{field}", set()).add(content)
        return {key: ",".join(sorted(contents)) for key, contents in found.items()}

    def keyed(self, content: dict[str, Any], inputs: "Mapping[str, str]") -> dict[str, Any]:
        """What its jobs name outside, and what that is, besides the fields."""
        ids = [{"input": one} for one in inputs.values()]
        return {**content, "outside": list(self.outside()), "inputs": ids}

    def warnings(self, inputs: "Mapping[str, Facts]") -> list[SpecWarning]:
        """Trials whose quality is reported only by the features that chose among them."""
        measured = {name: job for name, job in self.jobs.items() if _measures(job)}
        features = {name: str(job["features"]) for name, job in measured.items()}
        goals = [goal.rpartition(".")[0] for goal in self.objectives]
        choose = {features[name] for name in goals if name in features}
        if not choose or set(features.values()) - choose:
            return []
        names = " and ".join(f"'{name}'" for name in sorted(choose))
        what = f"the features {names} choose among the trials, and nothing else measures them"
        fix = "add an evaluate job by another feature network, and report that one"
        return [SpecWarning("minimize" if self.minimize else "pareto", what, fix)]

    def run(self, context: JobContext) -> SweepReport:
        from slimctl.jobs.search.trials import Notes, best, front

        notes = [note for note in Notes(context.work).read() if note.trial is not None]
        trials = [note.trial for note in notes if note.trial is not None]
        self._check_ended(context.job, trials, [note.excess for note in notes])
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

    def _check_ended(self, job: str, trials: "Sequence[Trial]", excess: "Sequence[float]") -> None:
        """Raises UserError where no trial came to its end."""
        if any(trial.state == "done" for trial in trials):
            return
        if trials and all(trial.state == "filtered" for trial in trials):
            closest = trials[min(range(len(trials)), key=lambda number: excess[number])]
            raise UserError(
                f"job '{job}', subject_to",
                f"no size meets the limits; the nearest is {in_words(closest.values)}: "
                f"{closest.why}",
                "raise the limit, or add smaller sizes to the space",
            )
        why = f"; the first: {trials[0].why}" if trials else ""
        raise UserError(f"job '{job}'", f"no trial was finished{why}")


def _measures(template: Any) -> bool:
    """Whether a job measures quality by a feature network that it names."""
    kind = _kind(template)
    return kind is not None and output_type(kind) is QualityReport and "features" in template


def _kind(template: Any) -> type[JobSpec] | None:
    """The kind of a job; None where it is wrong, which the check of the trials says."""
    try:
        return load_kind(template["kind"])
    except (UserError, TypeError, KeyError):
        return None


def _check_watched(scheduler: Asha, jobs: "Mapping[str, Any]") -> None:
    """Raises FieldError where a job takes no scores, or takes the first one too late."""
    name = scheduler.watch
    if name not in jobs:
        what = f"no job of the trials is '{name}'"
        raise FieldError("scheduler.watch", what, nearest(name, jobs))
    kind = _kind(jobs[name])
    if kind is None:
        return
    if "score_every" not in kind.model_fields:
        what = f"'{name}' ({jobs[name]['kind']}) takes no scores while it runs"
        fix = "watch an anneal_reflow, a distill or a match_distribution"
        raise FieldError("scheduler.watch", what, fix)
    if jobs[name].get("data") is None:
        fix = f"give '{name}' data, and features for a KID"
        raise FieldError("scheduler.watch", f"'{name}' takes no scores: it has no data", fix)
    every = jobs[name].get("score_every", kind.model_fields["score_every"].default)
    if isinstance(every, int) and every > scheduler.grace_period:
        what = f"'{name}' takes its first score after {every} steps"
        fix = f"use at least {every}, or lower score_every of '{name}'"
        raise FieldError("scheduler.grace_period", what, fix)
