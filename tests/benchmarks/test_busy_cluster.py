import pytest

from benchmarks.busy_cluster import busy_share, lengths, pipeline_text
from benchmarks.sleeping import Sleep
from slimctl.jobs.base.cluster import Cluster, Needs
from slimctl.orchestrator.pipeline.pipeline import parse_pipeline
from slimctl.orchestrator.runs.events import Event


def happened(name, job, at, **details):
    return Event(number=0, time=at, name=name, job=job, details=details)


@pytest.mark.parametrize("lanes", [14, 56, 64])
def test_the_trials_fill_the_other_nodes(lanes):
    """Whoever takes the next one when it is free ends with the others."""
    times = lengths(64, lanes, 900.0)
    assert len(set(times)) == 64
    free = [0.0] * lanes
    for length in times:
        lane = free.index(min(free))
        free[lane] += length
    assert max(free) - min(free) < 5.0
    assert max(free) == pytest.approx(900.0, abs=3.0)


def test_fewer_trials_than_lanes_cannot():
    with pytest.raises(ValueError, match="leave some of 14 lanes empty"):
        lengths(13, 14, 100.0)


def test_the_share_of_two_gpus_that_work():
    """One works from 2 s to 10 s; the other from 1 s to 5 s, and from 6 s to 9 s."""
    events = [
        happened("job_started", "sizes", 0.0),
        happened("job_started", "a", 0.0),
        happened("job_started", "b", 0.0),
        happened("job_done", "b", 5.0, wall_s=4.0, device_s=4.0),
        happened("job_started", "c", 6.0),
        happened("job_done", "c", 9.0, wall_s=3.0, device_s=3.0),
        happened("job_done", "a", 10.0, wall_s=8.0, device_s=8.0),
        happened("job_done", "sizes", 10.5, wall_s=0.1, device_s=0.0),
    ]
    found = busy_share(events, gpus=2)
    assert found["wall_s"] == 10.0
    assert found["busy"] == pytest.approx(15 / 18)
    assert found["busy_from_launch"] == pytest.approx(15 / 20)
    assert found["first_process_s"] == pytest.approx(1.0)
    assert found["held"] == pytest.approx(18 / 20)
    assert found["handed_over_s"] == pytest.approx(1.0)


def test_the_pipeline_is_one(install_kinds):
    install_kinds(sleep=Sleep)
    text = pipeline_text(8, lengths(6, 4, 30.0), 30.0)
    pipeline = parse_pipeline(text, "busy.yaml").pipeline
    assert pipeline.specs["training"].needs(Cluster(cpus=16, gpus=16)) == Needs(8, 8)
    assert pipeline.specs["sizes"].at_once(Cluster(cpus=64, gpus=64)) == 64
