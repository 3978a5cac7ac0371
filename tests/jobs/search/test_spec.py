import pytest

from slimctl.jobs.base.cluster import Cluster
from slimctl.jobs.base.registry import parse_job

RANDOM = {"kind": "random", "trials": 64}
OPTUNA = {"kind": "optuna", "trials": 64}


def sweep(**changes):
    jobs = {"some": {"kind": "load_dataset", "source": "digits", "max_images": "${count}"}}
    space = {"count": {"randint": [5, 60]}}
    fields = {"space": space, "jobs": jobs, "minimize": "some.count", "search": RANDOM}
    return parse_job("sweep", fields | changes)


@pytest.mark.parametrize(
    ("changes", "cluster", "at_once"),
    [
        ({}, Cluster(cpus=2), 4),
        ({}, Cluster(cpus=16), 16),
        ({}, Cluster(cpus=512, gpus=64), 64),
        ({}, Cluster(cpus=512, gpus=1), 4),
        ({"parallel": 3}, Cluster(cpus=512, gpus=64), 3),
        ({"search": OPTUNA}, Cluster(cpus=512, gpus=64), 12),
        ({"search": OPTUNA}, Cluster(cpus=2), 4),
        ({"search": OPTUNA, "parallel": 64}, Cluster(cpus=2), 64),
    ],
)
def test_a_sweep_uses_the_whole_cluster(changes, cluster, at_once):
    """By default four trials were under way, and 60 of 64 GPUs idle."""
    assert sweep(**changes).at_once(cluster) == at_once
