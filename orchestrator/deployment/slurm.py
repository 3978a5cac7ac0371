"""A batch script of Slurm: `ray symmetric-run` over the nodes, stopped and requeued in time."""

import shlex
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from slimctl.orchestrator.deployment.target import Target, checked_folder


def batch_script(
    target: Target, script: str, *, time_s: float, notice_s: float, more: Sequence[str] = ()
) -> str:
    """The text of a batch script.

    Args:
        target: what to run.
        script: the file that it is written to, for its first lines.
        time_s: limit of each attempt, s.
        notice_s: how long before it the run is asked to stop, s.
        more: further options of sbatch, such as `--partition=gpu`.
    """
    from jinja2 import Environment

    environment = Environment(keep_trailing_newline=True)
    environment.filters["quote"] = shlex.quote
    text = files(__package__).joinpath("slurm.sh").read_text(encoding="utf-8")
    nodes, store = target.machines.nodes, target.storage
    store = checked_folder(store, nodes) if target.local else store
    minutes = max(1, round(time_s / 60))
    return environment.from_string(text).render(
        name=target.name,
        script=script,
        machines=target.machines,
        time=f"{minutes // 60}:{minutes % 60:02d}:00",
        notice_s=round(notice_s),
        more=more,
        folder=str(Path.cwd()),
        programs=str(Path(sys.executable).parent),
        pipeline=target.file,
        storage=checked_folder(target.storage, target.machines.nodes)
        if target.local
        else target.storage,
    )
