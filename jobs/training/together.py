"""What workers do together before they wait for each other in the first exchange."""

from collections.abc import Callable

import torch

from slimctl.jobs.base.errors import DamagedArtifact, listed


def together(action: Callable[[], None]) -> None:
    """Does something on each worker; what any of them finds damaged is raised on all, in one error.

    Args:
        action: what this worker does.

    Raises:
        DamagedArtifact: some worker found damage; names it all.
    """
    exchanges = torch.distributed
    world = exchanges.get_world_size() if exchanges.is_initialized() else 1
    damage: list[str] = []
    fix = ""
    try:
        action()
    except DamagedArtifact as error:
        if world == 1:
            raise
        damage, fix = [f"{error.where}: {error.what}"], error.fix
    if world == 1:
        return
    said: list[tuple[list[str], str]] = [([], "")] * world
    exchanges.all_gather_object(said, (damage, fix))
    found = sorted({line for lines, _ in said for line in lines})
    if found:
        what = f"{len(found)} damaged: {listed(found, len(found))}"
        raise DamagedArtifact("", what, next(fix for lines, fix in said if lines))
