"""Forked processes that exchange by gloo, as the workers of a training do."""

import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # once, and not in each fork at its first step

PATIENCE_S = 120.0


def on_gloo(folder: Path, work: Callable[[int], None], world: int = 2) -> list[str]:
    """Runs `work(rank)` in each process; returns each one's last traceback, "" for none.

    Args:
        folder: where they find each other.
        work: may be any function: the processes are forked.
        world: number of processes.
    """
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    meeting = f"file://{folder / 'meeting'}"

    def process(rank: int) -> None:
        torch.set_num_threads(1)
        torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=world)
        try:
            work(rank)
            said.put((rank, ""))
        except Exception:  # noqa: BLE001  (whatever it is, the test asks)
            said.put((rank, traceback.format_exc().rpartition("\n\n")[2]))

    (folder / "meeting").unlink(missing_ok=True)
    processes = [context.Process(target=process, args=(rank,)) for rank in range(world)]
    for each in processes:
        each.start()
    try:
        answers = dict(said.get(timeout=PATIENCE_S) for _ in range(world))
    finally:
        for each in processes:
            each.join(PATIENCE_S)
            each.kill()
    return [answers[rank] for rank in range(world)]
