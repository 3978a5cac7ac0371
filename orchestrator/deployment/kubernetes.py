"""A `RayJob` of KubeRay, with the pipeline in a config map.

The operator tries nothing again: the store has what is finished, and applying the file again goes
on from there. Secrets are named, never held.
"""

from typing import Any

from slimctl.jobs.base.errors import UserError
from slimctl.orchestrator.deployment.target import Target
from slimctl.orchestrator.pipeline.source import yaml_text

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PIPELINE = "/etc/slimctl"
STORE = "/store"
CPUS = 8


def ray_job(
    target: Target,
    *,
    image: str,
    ray_version: str,
    namespace: str | None = None,
    queue: str | None = None,
    claim: str | None = None,
    secret: str | None = None,
) -> str:
    """Two YAML documents: the pipeline's config map, and the job.

    Args:
        target: what to run.
        image: with slimctl and Ray.
        ray_version: of Ray in it.
        namespace: of both; None = kubectl's.
        queue: of Kueue, which then starts the job; None = it starts at once.
        claim: of a volume that all pods can write, for a store that is a folder.
        secret: whose keys become variables of every pod, such as AWS_SECRET_ACCESS_KEY.

    Raises:
        UserError: the store is a folder, and no claim names its volume.
    """
    if target.local and claim is None:
        what = f"the store {target.storage} is a folder, which no pod has"
        fix = "name a volume claim with --claim, or a bucket with --storage s3://bucket/folder"
        raise UserError("launch", what, fix)
    place = {"namespace": namespace} if namespace else {}
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": target.label, **place},
        "data": {"pipeline.yaml": target.pipeline},
    }
    labels = {"labels": {QUEUE_LABEL: queue}} if queue else {}
    storage = STORE if target.local else target.storage
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": target.label, **place, **labels},
        "spec": {
            "entrypoint": f"slimctl submit {PIPELINE}/pipeline.yaml --storage {storage} "
            "--address auto",
            "shutdownAfterJobFinishes": True,
            "backoffLimit": 0,
            "submitterConfig": {"backoffLimit": 0},
            **({"suspend": True} if queue else {}),
            "rayClusterSpec": _cluster(target, image, ray_version, claim, secret),
        },
    }
    return f"{yaml_text(config)}---\n{yaml_text(job)}"


def _cluster(
    target: Target, image: str, ray_version: str, claim: str | None, secret: str | None
) -> dict[str, Any]:
    """A head that computes too, and the other nodes as workers."""
    pod = _pod(target, image, claim, secret)
    head = {"rayStartParams": {}, "template": pod("ray-head")}
    spec: dict[str, Any] = {"rayVersion": ray_version, "headGroupSpec": head}
    more = target.machines.nodes - 1
    if more:
        workers = {"groupName": "workers", "replicas": more, "minReplicas": more}
        workers |= {"maxReplicas": more, "rayStartParams": {}, "template": pod("ray-worker")}
        spec["workerGroupSpecs"] = [workers]
    return spec


def _pod(target: Target, image: str, claim: str | None, secret: str | None) -> Any:
    """Makes the template of a pod from the name of its container."""
    machines = target.machines
    needs = {"cpu": str(machines.cpus or CPUS)}
    needs |= {"memory": f"{machines.memory_gib}Gi"} if machines.memory_gib else {}
    needs |= {"nvidia.com/gpu": str(machines.gpus)} if machines.gpus else {}
    volumes: list[dict[str, Any]] = [{"name": "pipeline", "configMap": {"name": target.label}}]
    mounts = [{"name": "pipeline", "mountPath": PIPELINE, "readOnly": True}]
    if claim:
        volumes.append({"name": "store", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": "store", "mountPath": STORE})

    def template(name: str) -> dict[str, Any]:
        container: dict[str, Any] = {
            "name": name,
            "image": image,
            "resources": {"requests": needs, "limits": needs},
            "volumeMounts": mounts,
            "securityContext": {"allowPrivilegeEscalation": False, "runAsNonRoot": True},
        }
        if secret:
            container["envFrom"] = [{"secretRef": {"name": secret}}]
        return {"spec": {"containers": [container], "volumes": volumes}}

    return template
