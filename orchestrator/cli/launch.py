"""The verb that writes what starts a pipeline on Slurm, Kubernetes or machines of one's own."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator.cli.options import File, Overrides, Storage, load, open_store, warn
from slimctl.orchestrator.cli.output import echo

if TYPE_CHECKING:
    from slimctl.orchestrator.deployment.target import Machines, Target

LEAST_NOTICE_S = 20.0


class Place(StrEnum):
    """Where a pipeline is launched."""

    slurm = "slurm"
    kubernetes = "kubernetes"
    ray = "ray"


ENDINGS = {Place.slurm: ".sbatch", Place.kubernetes: ".rayjob.yaml", Place.ray: ".cluster.yaml"}
To = Annotated[Place, typer.Option("--to", help="What the file is for.", show_default=False)]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="File to write; else called after the run.")
]
Submit = Annotated[
    bool, typer.Option("--submit", help="Hand it to sbatch or kubectl, and follow it.")
]
Nodes = Annotated[int, typer.Option(help="Nodes to ask for.", min=1)]
Cpus = Annotated[int | None, typer.Option(help="CPUs of each node.", min=1)]
Gpus = Annotated[int, typer.Option(help="GPUs of each node.", min=0)]
Memory = Annotated[int | None, typer.Option(help="Memory of each node, GiB.", min=1)]
Limit = Annotated[str, typer.Option("--time", help="Slurm: limit of each attempt.")]
Notice = Annotated[
    str, typer.Option(help="Slurm: how long before the limit the run makes checkpoints.")
]
Sbatch = Annotated[
    list[str] | None,
    typer.Option("--sbatch", help="Slurm: a further option, such as --partition=gpu."),
]
Image = Annotated[str | None, typer.Option(help="Kubernetes, Ray: container image with slimctl.")]
Namespace = Annotated[str | None, typer.Option(help="Kubernetes: namespace.")]
Queue = Annotated[str | None, typer.Option(help="Kubernetes: queue of Kueue.")]
Claim = Annotated[
    str | None, typer.Option(help="Kubernetes: volume claim for a store that is a folder.")
]
Secret = Annotated[
    str | None, typer.Option(help="Kubernetes: secret whose keys become variables of the pods.")
]
Hosts = Annotated[
    list[str] | None, typer.Option("--host", help="Ray: a machine; the first is the head.")
]
User = Annotated[str | None, typer.Option(help="Ray: who logs in; else you.")]


def launch(
    file: File,
    to: To,
    output: Output = None,
    submit: Submit = False,
    nodes: Nodes = 1,
    cpus: Cpus = None,
    gpus: Gpus = 0,
    memory: Memory = None,
    limit: Limit = "24h",
    notice: Notice = "3m",
    sbatch: Sbatch = None,
    image: Image = None,
    namespace: Namespace = None,
    queue: Queue = None,
    claim: Claim = None,
    secret: Secret = None,
    hosts: Hosts = None,
    user: User = None,
    overrides: Overrides = None,
    storage: Storage = None,
) -> None:
    """Write a batch script, a RayJob or a cluster file for a pipeline."""
    from slimctl.orchestrator.deployment.handover import follow_kubernetes, follow_slurm
    from slimctl.orchestrator.deployment.target import Machines

    if submit and to == Place.ray:
        raise UserError("--submit", "is for slurm and kubernetes", "ray up FILE starts a cluster")
    target = _target(file, to, overrides, storage, Machines(nodes, cpus, gpus, memory))
    path = output or Path(f"{target.name}{ENDINGS[to]}")
    if to == Place.slurm:
        text = _batch_script(target, path, limit, notice, sbatch or [])
    elif to == Place.kubernetes:
        more = {"namespace": namespace, "queue": queue, "claim": claim, "secret": secret}
        text = _ray_job(target, image, more)
    else:
        import getpass

        from slimctl.orchestrator.deployment.ray_cluster import cluster_file

        user = user or getpass.getuser()
        text = cluster_file(target, str(path), image=image, hosts=hosts or [], user=user)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    echo(str(path))
    if submit and to == Place.slurm:
        follow_slurm(path, target.name, open_store(target.storage))
    elif submit:
        follow_kubernetes(path, target.label, namespace)


def _target(
    file: Path, to: Place, overrides: list[str] | None, storage: str | None, machines: "Machines"
) -> "Target":
    """The pipeline, checked as far as its files are here: elsewhere they are on the cluster."""
    from slimctl.orchestrator.deployment.target import Target
    from slimctl.orchestrator.pipeline.pipeline import to_yaml
    from slimctl.orchestrator.planning.plan import check

    if to == Place.slurm and overrides:
        fix = "change the pipeline file: each attempt reads it"
        raise UserError("--set", "does not reach the nodes of Slurm", fix)
    pipeline = load(file, overrides, storage, draft=to != Place.slurm, reads=True)
    if to == Place.slurm:
        warn(check(pipeline))
    text, store = to_yaml(pipeline), pipeline.storage
    return Target(pipeline.name, str(file.absolute()), text, store, machines)


def _batch_script(target: "Target", path: Path, limit: str, notice: str, more: list[str]) -> str:
    from slimctl.orchestrator.deployment.slurm import batch_script

    time_s, notice_s = _seconds("--time", limit), _seconds("--notice", notice)
    if not LEAST_NOTICE_S <= notice_s < time_s:
        what = f"{notice} is not between {LEAST_NOTICE_S:g} s and the limit of --time"
        raise UserError("--notice", what, "leave a minute or more to make checkpoints")
    return batch_script(target, str(path), time_s=time_s, notice_s=notice_s, more=more)


def _ray_job(target: "Target", image: str | None, more: dict[str, str | None]) -> str:
    from importlib.metadata import version

    from slimctl.orchestrator.deployment.kubernetes import ray_job

    if image is None:
        fix = "build one with the repository's Dockerfile, and name it with --image"
        raise UserError("launch --to kubernetes", "no container image is named", fix)
    return ray_job(target, image=image, ray_version=version("ray"), **more)


def _seconds(option: str, text: str) -> float:
    from slimctl.jobs.base.duration import seconds

    try:
        return float(text) if text.isdecimal() else float(seconds(text))
    except ValueError as error:
        raise UserError(option, f"'{text}' is no duration", "write 24h, 90m or 45s") from error
