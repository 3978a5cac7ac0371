"""Whether every node of a cluster sees the storage: a folder of one machine is not enough."""

import secrets

from slimctl.jobs.base.errors import UserError
from slimctl.jobs.storage.store import Store

PROBE_S = 60.0


def check_shared(store: Store) -> None:
    """Checks that each node of the connected cluster reads what is written here.

    Raises:
        UserError: a node does not; all such nodes are named.
    """
    blind = blind_nodes(store)
    if blind:
        raise UserError(
            f"storage {store.uri}",
            f"cannot be seen from {len(blind)} node(s) of the cluster: {', '.join(blind)}",
            "use a folder that all nodes mount at the same path, or s3://bucket/folder "
            "(with its credentials in the environment of the nodes)",
        )


def blind_nodes(store: Store) -> list[str]:
    """Addresses of the nodes that do not read what is written here, each with the reason."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1 and "://" not in store.uri and _is_here(nodes[0]):
        return []
    name, content = f"tmp/seen-{secrets.token_hex(8)}", secrets.token_bytes(16)
    store.blobs.write(name, content)
    try:
        probes = {
            node["NodeManagerAddress"]: ray.remote(_look)
            .options(
                num_cpus=0,
                max_retries=1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(store.uri, name, content)
            for node in nodes
        }
        ray.wait(list(probes.values()), num_returns=len(probes), timeout=PROBE_S)
        told = {address: _answer(probe) for address, probe in probes.items()}
    finally:
        store.blobs.delete(name)
    return [f"{address} ({why})" for address, why in told.items() if why]


def _is_here(node: dict[str, str]) -> bool:
    import socket

    return node["NodeManagerHostname"] == socket.gethostname()


def _answer(probe: object) -> str:
    import ray

    try:
        return str(ray.get(probe, timeout=0.1))
    except ray.exceptions.RayError as error:
        return f"no answer: {type(error).__name__}"


def _look(uri: str, name: str, content: bytes) -> str:
    """Runs on a node: what is wrong with the storage there, or ""."""
    try:
        found = Store(uri).blobs.read(name)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is the answer)
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return "" if found == content else "it holds other files"
