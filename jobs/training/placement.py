"""Giving back the devices of a training that was killed.

Ray frees a reservation with the program that asked for it. A job that outlives that program, or is
killed while the program lives, leaves Ray Train's reservation behind (Train's own cleaner works
only where a dashboard runs), and the next attempt would wait for it for ever. Reservations have no
owner that can be asked, so each carries its job's mark: an odd amount of memory, a few MiB.
"""

import hashlib
import time

SMALLEST_MARK = 2**20
MARKS = 2**21
SETTLE_S = 1.0
PATIENCE_S = 8.0


def placement_mark(artifact_id: str) -> int:
    """Bytes of memory that each worker of a training reserves: one to three MiB, by artifact."""
    digest = hashlib.sha256(artifact_id.encode()).digest()
    return SMALLEST_MARK + int.from_bytes(digest[:6], "big") % MARKS


def free_placement(artifact_id: str) -> int:
    """Ends the reservations that dead attempts at an artifact left; returns how many.

    A dying controller may reserve once more after its workers are gone, so this looks again until
    nothing comes any more.
    """
    freed = 0
    deadline = time.monotonic() + PATIENCE_S
    while (found := _remove_marked(placement_mark(artifact_id))) and time.monotonic() < deadline:
        freed += found
        time.sleep(SETTLE_S)
    return freed


def _remove_marked(mark: int) -> int:
    from ray._raylet import PlacementGroupID  # noqa: PLC0415
    from ray.util.placement_group import (  # noqa: PLC0415
        PlacementGroup,
        placement_group_table,
        remove_placement_group,
    )

    marked = [
        name
        for name, group in placement_group_table().items()
        if group["state"] != "REMOVED"
        and any(bundle.get("memory") == mark for bundle in group["bundles"].values())
    ]
    for name in marked:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))
    return len(marked)
