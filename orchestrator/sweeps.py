"""The trials of a sweep under the names that jobs of a group would have."""

from collections.abc import Iterator
from typing import NamedTuple

from slimctl.jobs.base.artifacts import SweepReport, Trial
from slimctl.jobs.base.placeholders import in_words
from slimctl.orchestrator.groups import Iteration, Origin, label_of


class TrialJob(NamedTuple):
    """A finished job of a trial."""

    name: str
    """`sizes.width=8.length=300.quality`."""
    artifact: str


def trial_jobs(sweep: str, report: SweepReport) -> Iterator[TrialJob]:
    """The finished jobs of all trials.

    Args:
        sweep: name of the job that swept.
        report: what it found.
    """
    for trial in report.trials:
        for member, artifact in trial.artifacts.items():
            yield TrialJob(Origin(sweep, iteration_of(trial), member).name, artifact)


def failed_trials(sweep: str, report: SweepReport) -> Iterator[tuple[str, str]]:
    """Name of each trial that failed, and why."""
    for trial in report.trials:
        if trial.state == "failed":
            yield f"{sweep}.{iteration_of(trial)}", trial.why


def iteration_of(trial: Trial) -> str:
    """Name of a trial by its values, as an iteration of a group has it."""
    labels = {name: label_of(value) for name, value in trial.values.items()}
    return Iteration(labels, trial.values).name


def verdict(report: SweepReport) -> str:
    """What a sweep found, in a sentence."""
    states = [trial.state for trial in report.trials]
    done = f"{states.count('done')} of {len(states)} trials done"
    ruled_out = states.count("filtered")
    done += f", {ruled_out} ruled out by size" if ruled_out else ""
    done += f", {states.count('stopped')} stopped early" if "stopped" in states else ""
    done += f", {states.count('failed')} failed" if "failed" in states else ""
    goals = ", ".join(report.objectives)
    if report.chosen is not None:
        best = report.trials[report.chosen]
        value = best.metrics[report.objectives[0]]
        return f"{in_words(best.values)} has the lowest {goals}, {value:.4g} ({done})"
    if len(report.objectives) > 1 and report.front:
        front = "; ".join(in_words(report.trials[number].values) for number in report.front)
        return f"on the front of {goals}: {front} ({done})"
    return f"nothing meets the limits ({done})"
