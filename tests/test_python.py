"""The public names of `slimctl`, used as a program of a user does."""

import subprocess
import sys

import pytest
from builders import strangers_folder

import slimctl
from slimctl import Group, Pipeline, check, plan
from slimctl.jobs.base.errors import JobFailed
from slimctl.jobs.base.refs import Ref
from slimctl.kinds import analytic_flow, assemble_fleet, generate_pairs, load_dataset, partition
from slimctl.orchestrator.pipeline.diagnostics import PipelineProblems

SCRIPT = """
from slimctl import Group, Pipeline, __version__, check, load_generator, load_teacher, plan, submit
from slimctl.kinds import analytic_flow, generate_pairs, load_dataset

data = load_dataset(source="digits", max_images=40)
teacher = analytic_flow(data=data, bandwidth=0.1)
pairs = generate_pairs(flow=teacher, count=8, solver={"kind": "euler", "steps": 2})
pipeline = Pipeline(
    name="script", storage="store", tracking=None,
    jobs={"data": data, "teacher": teacher, "pairs": pairs},
)
assert check(pipeline) == []
assert {job.action for job in plan(pipeline).jobs} == {"run"}
result = submit(pipeline)
print(result.status.state, result[pairs].count, result["data"].count)
assert {job.action for job in plan(pipeline).jobs} == {"reuse"}
assert submit(pipeline)[pairs] == result[pairs]
"""


@pytest.mark.ray
def test_a_script_beside_a_strangers_packages(tmp_path):
    folder = strangers_folder(tmp_path)
    (folder / "mine.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "mine.py"], cwd=folder, capture_output=True, text=True, check=False,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done 8 40\n"


def jobs() -> dict:
    data = load_dataset(source="digits", max_images=40)
    teacher = analytic_flow(data=data, bandwidth=0.1)
    return {"data": data, "teacher": teacher}


def test_every_public_name_is_there():
    assert all(getattr(slimctl, name) is not None for name in slimctl.__all__)
    assert set(slimctl.__all__) <= set(dir(slimctl))
    with pytest.raises(AttributeError, match="no attribute 'sumbit'"):
        slimctl.sumbit  # noqa: B018


def test_jobs_refer_to_each_other_by_object_as_by_name():
    made = jobs()
    by_object = Pipeline(name="p", jobs=made)
    by_name = Pipeline(
        name="p",
        jobs={"data": made["data"], "teacher": analytic_flow(data="data", bandwidth=0.1)},
    )
    assert by_object == by_name
    assert by_object.name_of(made["teacher"]) == by_object.name_of("teacher") == "teacher"
    assert by_object.model_copy(update={"seed": 3}).specs["teacher"].data == Ref("data")


def test_jobs_of_a_group_refer_by_object_within_out_and_in():
    made = jobs()
    inner = analytic_flow(data=made["data"], bandwidth=0.2)
    pairs = generate_pairs(flow=inner, count=4)
    group = Group(
        for_each={"n": [10, 20]},
        jobs={
            "flow": inner,
            "pairs": pairs,
            "more": {"kind": "generate_pairs", "flow": made["teacher"], "count": "${n}"},
        },
    )
    pipeline = Pipeline(name="p", jobs={**made, "g": group})
    assert pipeline.specs["g.n=10.pairs"].flow == Ref("g.n=10.flow")
    assert pipeline.specs["g.n=20.more"].flow == Ref("teacher")
    assert pipeline.specs["g.n=20.more"].count == 20
    assert pipeline.name_of(pairs) == "g.pairs"


def test_many_jobs_by_object():
    made = jobs()
    split = partition(data=made["data"], count=2)
    fleet = assemble_fleet(partition=split, students=(made["teacher"], made["teacher"]))
    held = {**made, "split": split, "fleet": fleet}
    with pytest.raises(PipelineProblems) as caught:
        Pipeline(name="p", jobs=held)  # two whole flows are no students of two parts
    assert "'teacher' serves all labels" in str(caught.value)


def test_an_object_that_is_not_in_the_pipeline():
    made = jobs()
    with pytest.raises(PipelineProblems) as caught:
        Pipeline(name="p", jobs={"pairs": generate_pairs(flow=made["teacher"], count=4)})
    assert str(caught.value) == (
        "jobs.pairs.flow: job 'pairs' takes as flow an object (analytic_flow) that is not among "
        "the jobs of this pipeline\n"
        "  fix: add it under a name of its own: jobs={..., 'NAME': ...}"
    )
    with pytest.raises(TypeError, match="has a name once it is in a Pipeline"):
        Ref(made["teacher"]).job  # noqa: B018


def test_mistakes_and_warnings_without_running(tmp_path):
    made = jobs()
    pipeline = Pipeline(name="p", storage=str(tmp_path / "store"), jobs=made)
    assert check(pipeline) == []
    forecast = plan(pipeline)
    assert [(job.name, job.action) for job in forecast.jobs] == [
        ("data", "run"),
        ("teacher", "run"),
    ]
    assert (forecast.warnings, forecast.missing) == ([], [])
    assert not (tmp_path / "store").exists()


def test_a_job_without_a_result_says_why(tmp_path):
    from slimctl.orchestrator.running.submission import Submission
    from slimctl.orchestrator.runs.status import JobStatus, RunStatus

    pipeline = Pipeline(name="p", storage=str(tmp_path), jobs=jobs())
    failed = JobStatus(
        kind="load_dataset", key="1", artifact="load_dataset-1", state="failed",
        message="no disk", fix="buy one",
    )  # fmt: skip
    status = RunStatus(run="p-1", jobs={"data": failed})
    ended = Submission("p-1", status, plan(pipeline).plan, started_ray=True, pipeline=pipeline)
    with pytest.raises(JobFailed, match=r"(?s)it is failed: no disk.*buy one"):
        ended[pipeline.jobs["data"]]
