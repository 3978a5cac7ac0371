"""Which job runs next: pure bookkeeping over the graph, no Ray.

Jobs on the longest remaining path go first; a job starts when its inputs are there and the devices
it needs are not taken by other jobs of the run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jobs.base.cluster import Cluster, Needs


@dataclass(frozen=True)
class Node:
    """A job as the scheduler sees it."""

    name: str
    inputs: Sequence[str]
    """Jobs whose results it takes."""
    needs: Needs


@dataclass
class Scheduler:
    """State of a run's graph.

    Args:
        nodes: all jobs, in file order.
        cluster: devices to share out.
        finished: jobs whose results are there already.
    """

    nodes: Sequence[Node]
    cluster: Cluster
    finished: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    """Failed, blocked or cancelled jobs."""

    def __post_init__(self) -> None:
        self._nodes = {node.name: node for node in self.nodes}
        self._users: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                self._users[name].append(node.name)
        self._depth = self._depths()

    def _depths(self) -> Mapping[str, int]:
        """Length of the longest path from each job to an end of the graph."""
        depths: dict[str, int] = {}
        stack = [node.name for node in self.nodes]
        while stack:
            name = stack[-1]
            open_users = [user for user in self._users[name] if user not in depths]
            if open_users and name not in depths:
                stack += open_users
                continue
            stack.pop()
            depths[name] = 1 + max((depths[user] for user in self._users[name]), default=0)
        return depths

    def ready(self) -> list[str]:
        """Jobs that could start now were there devices, the most urgent first."""
        settled = self.finished | self.running | self.dead
        names = [
            node.name
            for node in self.nodes
            if node.name not in settled and all(name in self.finished for name in node.inputs)
        ]
        return sorted(names, key=lambda name: -self._depth[name])

    def startable(self) -> list[str]:
        """Ready jobs that fit beside the running ones. A job alone always fits."""
        cpus = self.cluster.cpus - sum(self._needs(name).cpus for name in self.running)
        gpus = self.cluster.gpus - sum(self._needs(name).gpus for name in self.running)
        idle = not self.running
        chosen: list[str] = []
        for name in self.ready():
            needs = self._needs(name)
            if (needs.cpus <= cpus and needs.gpus <= gpus) or idle:
                chosen.append(name)
                cpus, gpus, idle = cpus - needs.cpus, gpus - needs.gpus, False
        return chosen

    def _needs(self, name: str) -> Needs:
        return self._nodes[name].needs

    def start(self, name: str) -> None:
        """Marks a job as running."""
        self.running.add(name)

    def finish(self, name: str) -> None:
        """Marks a job's result as there."""
        self.running.discard(name)
        self.finished.add(name)

    def requeue(self, name: str) -> None:
        """Puts a running job back in line."""
        self.running.discard(name)

    def fail(self, name: str) -> list[str]:
        """Marks a job as failed and returns the jobs that it blocks, in file order."""
        self.running.discard(name)
        self.dead.add(name)
        blocked: set[str] = set()
        stack = list(self._users[name])
        while stack:
            user = stack.pop()
            if user not in blocked and user not in self.dead:
                blocked.add(user)
                stack += self._users[user]
        self.dead |= blocked
        return [node.name for node in self.nodes if node.name in blocked]

    @property
    def over(self) -> bool:
        """Whether every job is finished or can never run."""
        return not self.running and not self.ready()
