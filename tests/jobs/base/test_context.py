import pickle

from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.context import JobContext, SilentReporter
from slimctl.jobs.base.refs import Ref


def test_a_job_reaches_its_inputs_its_folder_and_the_run(store, recorder, make_dataset, tmp_path):
    data = make_dataset()
    context = JobContext(
        job="student",
        artifact_id="train_flow-1",
        store=store,
        inputs={"data": data},
        folder=tmp_path,
        cluster=Cluster(cpus=2),
        reporter=recorder,
    )
    assert context.input(Ref("data")) is data
    context.work.write("x", b"1")
    assert store.blobs.read("work/train_flow-1/x") == b"1"
    context.progress(3, 7, loss=0.5)
    context.log("hello")
    context.warn("careful")
    assert recorder.events == [
        ("student", "progress", {"done": 3, "total": 7, "metrics": {"loss": 0.5}}),
        ("student", "log", {"message": "hello"}),
        ("student", "warning", {"message": "careful"}),
    ]
    assert context.notes == ["careful"]


def test_a_silent_reporter_travels_and_keeps_nothing():
    pickle.loads(pickle.dumps(SilentReporter())).send("job", "log", message="x")
