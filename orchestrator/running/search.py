"""A search under way in a run: its trials are groups of jobs that the supervisor's scheduler runs.

What is tried next and what is stopped is proposed elsewhere (`slimctl.jobs.search.propose`). Here
values become jobs, and what the jobs made becomes trials. Nothing is held that is not noted in the
store: whoever takes the search up again goes on where it stood.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from slimctl.jobs.base.artifacts import Trial
from slimctl.jobs.base.errors import UserError
from slimctl.jobs.base.keys import artifact_id, job_key
from slimctl.jobs.base.placeholders import in_words
from slimctl.jobs.base.refs import iter_refs
from slimctl.jobs.base.registry import kind_of, parse_job
from slimctl.jobs.base.spec import JobSpec
from slimctl.jobs.search.propose import Halving, Learner, candidates
from slimctl.jobs.search.spec import SIZES, SearchSpec
from slimctl.jobs.search.trials import Note, Notes, numbers, scores_of
from slimctl.jobs.storage.store import Store
from slimctl.orchestrator.pipeline.groups import Origin, trial_iteration
from slimctl.orchestrator.pipeline.link import links_of, topological_order
from slimctl.orchestrator.pipeline.references import Link, with_links
from slimctl.orchestrator.planning.plan import PlannedJob
from slimctl.orchestrator.runs.status import FINAL, JobStatus

if TYPE_CHECKING:
    from slimctl.jobs.base.cluster import Cluster
    from slimctl.orchestrator.running.supervisor import Supervisor

POLL_S = 1.0
PROGRESS_S = 5.0
FELL_BEHIND = "its scores fell behind those of other trials"


def trial_jobs(
    search: PlannedJob, spec: SearchSpec, values: Mapping[str, Any]
) -> dict[str, PlannedJob]:
    """The jobs of one trial by their names in it, inputs first, as a group's iteration has them.

    Args:
        search: the search with its inputs.
        spec: of it.
        values: variable -> value.

    Raises:
        UserError: an unknown kind.
        ValueError: a value that a job refuses, or jobs that need each other in a circle.
        OSError: an outside file that cannot be read.
    """
    specs, iteration = spec.trial(values), trial_iteration(values, spec.space).name
    names = {member: Origin(search.name, iteration, member).name for member in specs}
    meant = {**search.named, **{member: (name,) for member, name in names.items()}}
    linked: dict[str, JobSpec] = {}
    for member, one in specs.items():
        refs = ((place, source) for place, ref in iter_refs(one) for source in meant[ref.job])
        links = [Link(names[member], place, source, place) for place, source in refs]
        linked[names[member]] = with_links(one, links)
    edges = {name: links_of(one) for name, one in linked.items()}
    order = [*topological_order(edges | {job: [] for job in search.inputs})]
    if missing := [member for member, name in names.items() if name not in order]:
        raise ValueError(f"the jobs {', '.join(missing)} need each other in a circle")
    members = {name: member for member, name in names.items()}
    ids, made = dict(search.inputs), {}
    for name in (one for one in order if one in members):
        one = linked[name]
        inputs = {ref.job: ids[ref.job] for _, ref in iter_refs(one)}
        fingerprint = one.fingerprint()
        key = job_key(one, inputs, fingerprint)
        ids[name] = artifact_id(one, key)
        made[members[name]] = PlannedJob(
            name=name,
            kind=kind_of(one),
            fields=one.model_dump(mode="json"),
            key=key,
            artifact=ids[name],
            inputs=inputs,
            fingerprint=fingerprint,
            action="run",
            reason="",
            search=search.name,
            values=dict(values),
        )
    return made


@dataclass
class _UnderWay:
    """A trial whose jobs are in the run."""

    jobs: Mapping[str, PlannedJob]
    scored: int = 0
    """Step of the last score that was judged."""


class SearchRun:
    """Proposes trials as others end, until all have ended.

    Args:
        job: the search.
        store: where results and notes are.
        cluster: the whole cluster.
        run: takes the trials' jobs.
        attempt: names this attempt at it: what failed in another one is tried again.
    """

    def __init__(
        self, job: PlannedJob, store: Store, cluster: "Cluster", run: "Supervisor", attempt: str
    ) -> None:
        spec = parse_job(job.kind, job.fields)
        assert isinstance(spec, SearchSpec)
        self._job, self._spec, self._store, self._cluster = job, spec, store, cluster
        self._run, self._attempt = run, attempt
        self._notes = Notes(store.work(job.artifact))
        self._proposed: list[Note] = []
        self._queue: deque[int] = deque()
        self._to_look: list[int] = []
        self._look: tuple[Any, list[int]] | None = None
        self._looked: deque[tuple[int, tuple[str, float]]] = deque()
        """Trials whose sizes were looked at: which limits they break, and by how much."""
        self._under_way: dict[int, _UnderWay] = {}
        self._ended: dict[int, Trial] = {}
        self._seconds: dict[str, list[float]] = {}
        """How long each job of a trial took, by its name in the trial."""
        self._said: set[str] = set()
        self._heard_s = self._progress_s = 0.0
        self._learner: Learner | None = None
        self._halving: Halving | None = None
        self._begun = False

    def advance(self, now: float) -> bool:
        """Does what is due; returns whether all trials have ended.

        Args:
            now: seconds of any clock.

        Raises:
            OSError: the storage stumbles; to be called again.
        """
        if not self._begun:
            self._begin()
        for number, trial in [*self._under_way.items()]:
            if all(self._run.known(job.name).state in FINAL for job in trial.jobs.values()):
                self._finish(number, trial)
        if self._halving and now - self._heard_s >= POLL_S:
            self._heard_s = now
            self._hear(self._halving)
        self._take_look()
        most = self._spec.at_once(self._cluster)
        while self._busy < most and (fresh := self._next()) is not None:
            if any(name.rpartition(".")[2] in SIZES for name in self._spec.subject_to):
                self._to_look.append(fresh)
                continue
            try:
                self._start(fresh)
            except OSError:
                self._queue.appendleft(fresh)
                raise
        self._ask_look()
        self._say_progress(now)
        return len(self._ended) == self._total

    def resize(self, cluster: "Cluster") -> None:
        """Takes note of what the cluster has now."""
        self._cluster = cluster

    def end(self) -> None:
        """Stops all trials that are under way."""
        for trial in self._under_way.values():
            self._stop(trial, "its search failed")

    @property
    def _busy(self) -> int:
        looked_at = len(self._look[1]) if self._look else 0
        return len(self._under_way) + len(self._to_look) + looked_at + len(self._looked)

    def _begin(self) -> None:
        """Takes up what an earlier attempt noted."""
        notes, scheduler = self._notes.read(), self._spec.scheduler
        fixed = candidates(self._spec)
        self._total = getattr(self._spec.search, "trials", 0) if fixed is None else len(fixed)
        settled = {note.number: note for note in notes if self._is_settled(note)}
        if fixed is None:
            self._learner, self._proposed = Learner(self._spec, notes), notes
        else:
            fresh = (Note(number=at, values=one, after=0) for at, one in enumerate(fixed))
            self._proposed = [settled.get(note.number, note) for note in fresh]
        if scheduler is not None:
            self._halving = Halving(scheduler, self._spec.longest(scheduler))
        for note in sorted(settled.values(), key=lambda note: note.order):
            assert note.trial is not None
            self._ended[note.number] = note.trial
            for step, score in note.trial.scores if self._halving else ():
                self._halving.falls_behind(note.number, step, score)  # type: ignore[union-attr]
        self._queue += (one.number for one in self._proposed if one.number not in self._ended)
        self._begun = True

    def _is_settled(self, note: Note) -> bool:
        """Whether a trial has ended for good: its results are there, or it was ruled out."""
        trial = note.trial
        if trial is None or trial.state == "failed":
            return trial is not None and note.by == self._attempt
        made = trial.artifacts.values() if trial.state == "done" else ()
        return all(self._store.state(one) == "done" for one in made)

    def _next(self) -> int | None:
        """The next trial, proposed now where the search learns; None if there is none."""
        number = len(self._proposed)
        if not self._queue and self._learner and number < self._total:
            values = self._learner.propose(number)
            note = Note(number=number, values=values, after=len(self._ended))
            self._notes.write(note)
            self._proposed.append(note)
            self._queue.append(number)
        return self._queue.popleft() if self._queue else None

    def _ask_look(self) -> None:
        if self._to_look and self._look is None:
            named = self._job.named.items()
            outside = {name: self._job.inputs[jobs[0]] for name, jobs in named if jobs}
            values = [self._proposed[number].values for number in self._to_look]
            timed = any(name.endswith(".latency_ms") for name in self._spec.subject_to)
            gpus = 1 if timed and self._cluster.gpus else 0
            future = ask_sizes(gpus, self._store.uri, self._spec, outside, values)
            self._look, self._to_look = (future, self._to_look), []

    def _take_look(self) -> None:
        """Starts the trials whose sizes are within the limits; says once why others are not."""
        import ray

        if self._look is not None and ray.wait([self._look[0]], num_returns=1, timeout=0)[0]:
            self._looked += zip(self._look[1], ray.get(self._look[0]), strict=True)
            self._look = None
        while self._looked:
            number, (over, excess) = self._looked[0]
            if over:
                trial = Trial(values=self._proposed[number].values, state="filtered", why=over)
                self._settle(number, trial, excess)
            else:
                self._start(number)
            self._looked.popleft()

    def _start(self, number: int) -> None:
        values = self._proposed[number].values
        try:
            jobs = trial_jobs(self._job, self._spec, values)
        except (UserError, ValueError, OSError) as error:
            self._settle(number, Trial(values=values, state="failed", why=_first_line(error)))
            return
        share = self._job.flop / max(1, self._total * len(jobs))
        for member, job in jobs.items():
            there = self._store.state(job.artifact) == "done"
            changes = {"action": "reuse" if there else "run", "flop": share}
            jobs[member] = job.model_copy(update=changes)
        self._run.adopt(self._job.name, [*jobs.values()])
        self._under_way[number] = _UnderWay(jobs)

    def _hear(self, halving: Halving) -> None:
        """Judges the trainings that are watched by the scores that are new."""
        assert self._spec.scheduler is not None
        for number, trial in self._under_way.items():
            job = trial.jobs[self._spec.scheduler.watch]
            for step, score in scores_of(self._store, job.artifact).items():
                if step <= trial.scored:
                    continue
                trial.scored = step
                behind = halving.falls_behind(number, step, score)
                if behind and self._run.known(job.name).state not in FINAL:
                    self._stop(trial, FELL_BEHIND)
                    break

    def _stop(self, trial: _UnderWay, why: str) -> None:
        for job in trial.jobs.values():
            if self._run.known(job.name).state not in FINAL:
                self._run.stop(job.name, why)

    def _finish(self, number: int, trial: _UnderWay) -> None:
        """Reads what the jobs of a trial made."""
        known = {member: self._run.known(job.name) for member, job in trial.jobs.items()}
        made = {
            member: job.artifact
            for member, job in trial.jobs.items()
            if known[member].state in ("done", "reused")
        }
        metrics: dict[str, float] = {}
        for member, artifact in made.items():
            metrics |= numbers(member, self._store.load_any(artifact))
        state, why = _verdict(known)
        scores: Mapping[int, float] = {}
        if self._spec.scheduler and state != "failed":
            scores = scores_of(self._store, trial.jobs[self._spec.scheduler.watch].artifact)
        ended = Trial(
            values=self._proposed[number].values,
            state=state,
            artifacts=made,
            metrics=metrics,
            scores=tuple(scores.items()),
            why=why,
        )
        self._settle(number, ended)
        for member, job in known.items():
            if job.state == "done":
                self._seconds.setdefault(member, []).append(job.seconds(job.ended or 0.0))

    def _settle(self, number: int, trial: Trial, excess: float = 0.0) -> None:
        """Notes how a trial ended, and says so; a size that is ruled out is said once."""
        changes = {"order": len(self._ended), "by": self._attempt, "excess": excess}
        note = self._proposed[number].model_copy(update={"trial": trial, **changes})
        self._notes.write(note)
        self._ended[number] = trial
        self._under_way.pop(number, None)
        if self._learner:
            self._learner.learn(number, trial)
        if trial.state != "filtered" or trial.why not in self._said:
            self._said.add(trial.why)
            self._run.say(self._job.name, "log", message=self._line(trial))
        self._progress_s = 0.0

    def _line(self, trial: Trial) -> str:
        """How a trial ended, in a line."""
        if trial.state != "done":
            state = {"filtered": "ruled out"}.get(trial.state, trial.state)
            return f"{in_words(trial.values)}: {state}: {trial.why}"
        goals = (name for name in self._spec.objectives if name in trial.metrics)
        found = ", ".join(f"{name} {trial.metrics[name]:.4g}" for name in goals)
        return f"{in_words(trial.values)}: {found}"

    def _say_progress(self, now: float) -> None:
        """Says how many trials ended, of those not ruled out, and how far the others are."""
        if now - self._progress_s < PROGRESS_S:
            return
        self._progress_s = now
        out = sum(trial.state == "filtered" for trial in self._ended.values())
        done = len(self._ended) - out
        exact = done + sum(self._share(trial) for trial in self._under_way.values())
        total = self._total - out
        self._run.say(self._job.name, "progress", done=done, total=total, metrics={}, exact=exact)

    def _share(self, trial: _UnderWay) -> float:
        """How much of a trial is done, its jobs weighed by the time that they took in others."""
        if all(member in self._seconds for member in trial.jobs):
            weights = {member: fmean(self._seconds[member]) for member in trial.jobs}
        else:
            weights = dict.fromkeys(trial.jobs, 1.0)
        done = 0.0
        for member, job in trial.jobs.items():
            known = self._run.known(job.name)
            part = known.done / known.total if known.total else 0.0
            done += weights[member] * (1.0 if known.state in FINAL else min(1.0, part))
        return done / max(sum(weights.values()), 1e-9)


def ask_sizes(gpus: int, *arguments: Any) -> Any:
    """Has a worker `look` at the sizes of trials; gives a future of its answers."""
    import ray

    return ray.remote(_look).options(num_cpus=0, num_gpus=gpus).remote(*arguments)


def _look(*arguments: Any) -> list[tuple[str, float]]:
    from slimctl.jobs.search.sizes import look

    return look(*arguments)


def _verdict(known: Mapping[str, JobStatus]) -> tuple[Any, str]:
    """How a trial ended whose jobs all have, and why."""
    ends = [(member, job) for member, job in known.items() if job.state not in ("done", "reused")]
    if not ends:
        return "done", ""
    member, first = next((one for one in ends if one[1].state in ("failed", "stopped")), ends[0])
    if first.state == "stopped":
        return "stopped", first.message
    return "failed", f"{member}: {first.message}"


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]
