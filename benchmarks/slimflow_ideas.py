"""What each of SlimFlow's two ideas brings on digits, over several training seeds.

Annealing reflow against reflow from scratch with pairs only; distillation with the two-step term
against without; and both against naive distillation from scratch with the same total steps. The
teacher, its pairs and the feature network are those of configs/slimflow.yaml, made once. The
distance is L2, as it was when that file had no recipe.

    python -m benchmarks.slimflow_ideas [--seeds 3] [--storage DIR] [--json]
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from slimctl import Pipeline, load_pipeline, submit
from slimctl.jobs.base.artifacts import QualityReport
from slimctl.jobs.base.spec import JobSpec
from slimctl.jobs.kinds.anneal_reflow import AnnealReflow
from slimctl.jobs.kinds.distill import Distill
from slimctl.jobs.kinds.evaluate import Evaluate
from slimctl.jobs.storage.store import Store
from slimctl.models.flows.spec import ConstantAnnealing, L2Distance
from slimctl.models.metrics.interval import mean_interval
from slimctl.models.solvers.spec import EulerSpec
from slimctl.orchestrator.cli.live import open_view

CONFIG = Path(__file__).parent.parent / "configs" / "slimflow.yaml"
SHARED = ("data", "features", "teacher", "pairs")

WHOLE = "slimflow"
ROWS = {
    "annealed_1": "annealing reflow, 1 step",
    "annealed_2": "annealing reflow, 2 steps",
    "plain_1": "plain reflow, 1 step",
    "plain_2": "plain reflow, 2 steps",
    "slimflow": "annealed, distilled with the two-step term (weight 0.3, fewer fresh noises)",
    "published": "the same with the paper's weight 1 and as many fresh noises as pairs",
    "annealed_pairs": "annealed, distilled on pairs only",
    "plain_pairs": "plain, distilled on pairs only",
    "naive": "naive distillation from scratch, the same total steps",
}


@dataclass(frozen=True)
class Row:
    """A variant's measurements over the seeds."""

    name: str
    fids: tuple[float, ...]
    """One per seed."""
    fid: tuple[float, float, float]
    """Mean and its 95 % interval."""
    above: tuple[float, float, float]
    """FID minus that of the whole method with the same seed: mean and its 95 % interval."""
    precision: float
    recall: float


def variants(base: Mapping[str, JobSpec], seed: int) -> dict[str, JobSpec]:
    """The jobs of one training seed, by name without the seed."""
    student, one_step, quality = base["student"], base["one_step"], base["one_step_1"]
    assert isinstance(student, AnnealReflow)
    assert isinstance(one_step, Distill)
    assert isinstance(quality, Evaluate)
    one_step = _changed(one_step, recipe=None, distance=L2Distance())  # the method's own
    assert isinstance(one_step, Distill)
    alone = {"seed": seed, "workers": 1}  # several trainings side by side, one core each
    annealed = _changed(student, **alone)
    plain = _changed(student, annealing=ConstantAnnealing(), **alone)
    pairs_only = {"two_step_weight": 0.0, "guide": None}
    jobs: dict[str, JobSpec] = {
        "annealed": annealed,
        "plain": plain,
        "slimflow": _changed(one_step, start="annealed", guide="annealed", **alone),
        "published": _changed(
            one_step,
            start="annealed",
            guide="annealed",
            two_step_weight=1.0,
            two_step_batch=one_step.batch_size,
            **alone,
        ),
        "annealed_pairs": _changed(one_step, start="annealed", **pairs_only, **alone),
        "plain_pairs": _changed(one_step, start="plain", **pairs_only, **alone),
        "naive": _changed(
            one_step,
            start=None,
            network=student.network,
            steps=student.steps + one_step.steps,
            learning_rate=student.learning_rate,
            warmup=student.warmup,
            **pairs_only,
            **alone,
        ),
    }
    for name in ("slimflow", "published", "annealed_pairs", "plain_pairs", "naive"):
        jobs[f"{name}_q"] = _changed(quality, model=name, seed=0)
    for name in ("annealed", "plain"):
        for steps in (1, 2):
            solver = EulerSpec(steps=steps)
            jobs[f"{name}_{steps}_q"] = _changed(quality, model=name, seed=0, solver=solver)
    return jobs


def _changed(spec: JobSpec, **changes: object) -> JobSpec:
    return type(spec).model_validate({**dict(spec), **changes})


def build(seeds: Sequence[int], storage: str) -> Pipeline:
    """The whole benchmark as one pipeline."""
    base = load_pipeline(CONFIG).pipeline
    jobs: dict[str, JobSpec] = {name: base.specs[name] for name in SHARED}
    for seed in seeds:
        made = variants(base.specs, seed)
        for name, spec in made.items():
            own = {
                field: f"{value.job}-{seed}"
                for field, value in spec
                if getattr(value, "job", None) in made
            }
            jobs[f"{name}-{seed}"] = _changed(spec, **own)
    return Pipeline(name="slimflow-ideas", storage=storage, seed=base.seed, jobs=jobs)


def summarise(store: Store, artifacts: Mapping[str, str], seeds: Sequence[int]) -> list[Row]:
    """One row per variant."""
    reports = {
        name: [store.load(artifacts[f"{name}_q-{seed}"], QualityReport) for seed in seeds]
        for name in ROWS
    }
    rows = []
    for name, measured in reports.items():
        fids = tuple(report.fid for report in measured)
        pairs = zip(measured, reports[WHOLE], strict=True)
        above = [report.fid - whole.fid for report, whole in pairs]
        precision = fmean(report.precision for report in measured)
        recall = fmean(report.recall for report in measured)
        rows.append(Row(name, fids, _interval(fids), _interval(above), precision, recall))
    return rows


def _interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95 % interval; of one value only the value."""
    if len(values) == 1:
        return (values[0],) * 3
    found = mean_interval(values)
    return found.mean, found.low, found.high


def main() -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--storage", default="./slim-store", help="store, shared with the demo")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    seeds = range(options.seeds)
    view = open_view()
    with view:
        result = submit(build(seeds, options.storage), listener=view.event, on_plan=view.plan)
    artifacts = {name: job.artifact for name, job in result.status.jobs.items()}
    rows = summarise(Store(result.plan.storage), artifacts, seeds)
    if options.json:
        print(json.dumps([row.__dict__ for row in rows], indent=1))
        return
    head = "FID, mean [95 %] | above the fifth row at the same seed [95 %] | precision | recall"
    print(f"| variant | {head} |\n|---|---|---|---|---|")
    for row in rows:
        mean, low, high = row.fid
        above = "{:+.2f} [{:+.2f}, {:+.2f}]".format(*row.above) if row.name != WHOLE else ""
        print(
            f"| {ROWS[row.name]} | {mean:.2f} [{low:.2f}, {high:.2f}] | {above} "
            f"| {row.precision:.3f} | {row.recall:.3f} |"
        )


if __name__ == "__main__":
    main()
