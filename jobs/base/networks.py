"""The architectures of what handles name."""

from slimctl.jobs.base.artifacts import Flow, Generator
from slimctl.jobs.base.errors import UserError
from slimctl.models.networks.registry import ENTRY_POINTS, network_families, parse_network
from slimctl.models.networks.spec import NetworkSpec


def network_of(handle: Flow | Generator) -> NetworkSpec:
    """The architecture of a handle's network.

    Raises:
        UserError: it is of a package that is not installed here.
    """
    kind = (handle.network or {}).get("kind")
    if kind is not None and kind not in network_families():
        raise UserError(
            handle.id,
            f"its network is a '{kind}', which is not installed here",
            f"install the package that has '{kind}' in the entry-point group '{ENTRY_POINTS}'",
        )
    return parse_network(handle.network)
