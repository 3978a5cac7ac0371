"""Nodes that are going to be taken away, as Ray's control store knows it."""

from collections.abc import Mapping


def draining() -> Mapping[str, int]:
    """Ray's id of each node that is drained -> until when, Unix time in ms; 0 = not known.

    Ray Train's own watch of preemptions asks in the same way; there is no public one for other
    processes than its workers.
    """
    from ray._private.state import state  # noqa: PLC0415

    return dict(state.get_draining_nodes())
