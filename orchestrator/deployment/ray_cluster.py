"""A cluster file of `ray up` over machines that one reaches by SSH; others are a few lines away."""

from collections.abc import Sequence

from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator.deployment.target import Target
from slimctl.orchestrator.pipeline.source import yaml_text

HEAD = """\
# {name} on a Ray cluster of your machines (all reach each other, and see the store):
#
#   ray up {file}
#   ray dashboard {file}     (in another terminal: forwards its port to this machine)
#   slimctl submit {pipeline} --address http://localhost:8265
#   ray down {file}
#
# For machines of a cloud give `provider` its type (aws, gcp, azure), its region and node types:
# https://docs.ray.io/en/latest/cluster/vms/index.html
"""


def cluster_file(
    target: Target, file: str, *, image: str | None, hosts: Sequence[str], user: str
) -> str:
    """The text of a cluster file.

    Args:
        target: what to run.
        file: that it is written to, for its first lines.
        image: container with slimctl and Ray; None = they are installed on the machines.
        hosts: names or addresses of the machines, the head first.
        user: who logs in.

    Raises:
        UserError: no machine is named.
    """
    if not hosts:
        raise UserError("launch --to ray", "no machine is named", "add --host HEAD --host WORKER")
    head, *workers = hosts
    docker = {"docker": {"image": image, "container_name": target.label}} if image else {}
    start = "ray start --disable-usage-stats"
    cluster = {
        "cluster_name": target.label,
        "provider": {"type": "local", "head_ip": head, "worker_ips": workers},
        "auth": {"ssh_user": user},
        "min_workers": len(workers),
        "max_workers": len(workers),
        **docker,
        "head_start_ray_commands": [
            f"{start} --head --port=6379 --autoscaling-config=~/ray_bootstrap_config.yaml"
        ],
        "worker_start_ray_commands": [f"{start} --address=$RAY_HEAD_IP:6379"],
    }
    about = HEAD.format(name=target.name, file=file, pipeline=target.file)
    return f"{about}{yaml_text(cluster)}"
