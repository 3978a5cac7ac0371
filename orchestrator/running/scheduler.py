"""Which job runs next: pure bookkeeping over the graph, no Ray.

Jobs on the path with the most work left go first, where their work is not known those on the path
of most jobs; a job starts when its inputs are there and the devices
it needs are not taken by other jobs of the run. Ready jobs wait in one heap per kind of need, so
that a step costs the same however many jobs there are.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from slimctl.jobs.base.cluster import Cluster, Needs


@dataclass(frozen=True)
class Node:
    """A job as the scheduler sees it."""

    name: str
    inputs: Sequence[str]
    """Jobs that must be finished before it starts."""
    needs: Needs
    flop: float = 0.0
    """Floating-point operations that it takes; 0 = little, or not known."""


class Scheduler:
    """State of a run's graph: each job waits, is ready, running, paused, finished or dead.

    Args:
        nodes: the jobs.
        cluster: what they are laid out for.
        there: what of it is there now; None = all. Jobs that need GPUs which are still to come wait
            for them.
    """

    def __init__(
        self, nodes: Sequence[Node], cluster: Cluster, there: Cluster | None = None
    ) -> None:
        self._cluster, self._there = cluster, there or cluster
        self._nodes: dict[str, Node] = {}
        self._rank: dict[str, tuple[float, int, int]] = {}
        self._users: dict[str, list[str]] = {}
        self._missing: dict[str, set[str]] = {}
        self._ready: set[str] = set()
        self._queues: dict[Needs, list[tuple[float, int, int, str]]] = {}
        self._running: set[str] = set()
        self._paused: set[str] = set()
        self._settled: set[str] = set()
        """Finished, failed or blocked."""
        self._finished: set[str] = set()
        self._passed: dict[str, int] = {}
        """How often a job of the same devices was started while this one was the most urgent."""
        self.add(nodes)

    def add(self, nodes: Sequence[Node]) -> None:
        """Adds jobs, each after its inputs, which may be known already; none needs a dead job."""
        for node in nodes:
            self._nodes[node.name] = node
            self._users[node.name] = []
            self._missing[node.name] = set(node.inputs) - self._finished
            for name in self._missing[node.name]:
                self._users[name].append(node.name)
        work, depths = self._paths([node.name for node in nodes])
        for at, node in enumerate(nodes, len(self._rank)):
            self._rank[node.name] = (-work[node.name], -depths[node.name], at)
        for node in nodes:
            if not self._missing[node.name]:
                self._enqueue(node.name)

    def _paths(self, names: Sequence[str]) -> tuple[Mapping[str, float], Mapping[str, int]]:
        """Most work, and number of jobs, on a path from each job to an end of the graph."""
        work: dict[str, float] = {}
        depths: dict[str, int] = {}
        for name in reversed(names):
            users = self._users[name]
            work[name] = self._nodes[name].flop + max((work[one] for one in users), default=0.0)
            depths[name] = 1 + max((depths[one] for one in users), default=0)
        return work, depths

    def _enqueue(self, name: str) -> None:
        self._ready.add(name)
        queue = self._queues.setdefault(self._nodes[name].needs, [])
        heapq.heappush(queue, (*self._rank[name], name))

    def next_startable(self) -> str | None:
        """The most urgent ready job that fits beside the running ones. A job alone always fits.

        What the most urgent one of all needs is kept for it once others have passed it as often as
        it needs devices: small jobs that follow each other would never leave it enough at once.
        """
        heads = self._heads()
        if not heads:
            return None
        cpus = self._there.cpus - sum(self._nodes[name].needs.cpus for name in self._running)
        gpus = self._there.gpus - self._gpus_taken()
        first = heads[0]
        if self._fits(first, cpus, gpus):
            return first
        needs = self._nodes[first].needs
        if self._passed.get(first, 0) >= (needs.gpus or needs.cpus):
            cpus = min(cpus, max(0, cpus - needs.cpus))
            gpus = min(gpus, max(0, gpus - needs.gpus))
        return next((name for name in heads[1:] if self._fits(name, cpus, gpus)), None)

    def _heads(self) -> list[str]:
        """The first job of each line that waits for nothing but devices, the most urgent first."""
        heads = []
        for needs, queue in self._queues.items():
            while queue and queue[0][-1] not in self._ready:  # it left the line in another way
                heapq.heappop(queue)
            heads += [] if self._is_to_come(needs) else queue[:1]
        return [head[-1] for head in sorted(heads)]

    def _fits(self, name: str, cpus: float, gpus: float) -> bool:
        needs = self._nodes[name].needs
        return not self._running or (needs.cpus <= cpus and needs.gpus <= gpus)

    def _gpus_taken(self) -> float:
        return sum(self._nodes[name].needs.gpus for name in self._running)

    def _is_to_come(self, needs: Needs) -> bool:
        """Whether a job needs more GPUs than are there, and as many are expected."""
        return self._there.gpus < needs.gpus <= self._cluster.gpus

    def awaited_gpus(self) -> list[float]:
        """GPUs that ready jobs would take at once if all that are expected were there.

        Returns:
            Of each part of these jobs, the most urgent first; nothing if what is there will do.
        """
        if self._there.gpus >= self._cluster.gpus:
            return []
        taken = self._gpus_taken()
        room, parts = self._cluster.gpus - taken, list[float]()
        for name in sorted(self._ready, key=self._rank.__getitem__):
            needs = self._nodes[name].needs
            if 0 < needs.gpus <= room:
                room -= needs.gpus
                parts += [needs.part.gpus] * needs.parts
        return parts if taken + sum(parts) > self._there.gpus else []

    def resize(
        self, cluster: Cluster, needs: Mapping[str, Needs], there: Cluster | None = None
    ) -> None:
        """Shares out another cluster from now on; running jobs keep what they have."""
        self._cluster, self._there = cluster, there or cluster
        for name in self._nodes.keys() - self._running:
            self._nodes[name] = replace(self._nodes[name], needs=needs[name])
        ready, self._ready, self._queues = self._ready, set(), {}
        for name in ready:
            self._enqueue(name)

    def start(self, name: str) -> None:
        """Gives a ready job its devices."""
        first = next(iter(self._heads()), name)
        takes, needs = self._nodes[name].needs, self._nodes[first].needs
        if first != name and (takes.gpus if needs.gpus else takes.cpus):
            self._passed[first] = self._passed.get(first, 0) + 1
        self._ready.remove(name)
        self._running.add(name)

    def finish(self, name: str) -> None:
        """Marks a job's result as there, whatever state it is in."""
        self._settle(name)
        self._finished.add(name)
        for user in self._users[name]:
            self._missing[user].discard(name)
            if not self._missing[user] and not self._is_known(user):
                self._enqueue(user)

    def pause(self, name: str) -> None:
        """Takes a running job's devices until `requeue`."""
        self._running.remove(name)
        self._paused.add(name)

    def requeue(self, name: str) -> None:
        """Puts a paused job back in line."""
        self._paused.remove(name)
        self._enqueue(name)

    def fail(self, name: str) -> list[str]:
        """Marks a job as failed and returns the jobs that it blocks, inputs first."""
        self._settle(name)
        blocked: set[str] = set()
        stack = [name]
        while stack:
            fresh = set(self._users[stack.pop()]) - self._settled
            blocked |= fresh
            self._settled |= fresh
            stack += fresh
        return sorted(blocked, key=lambda blocked_name: self._rank[blocked_name][-1])

    def _settle(self, name: str) -> None:
        for group in (self._ready, self._running, self._paused):
            group.discard(name)
        self._settled.add(name)

    def _is_known(self, name: str) -> bool:
        """Whether a job whose inputs are there is in line, under way or settled already."""
        groups = (self._settled, self._ready, self._running, self._paused)
        return any(name in group for group in groups)

    @property
    def over(self) -> bool:
        """Whether every job is finished or can never run."""
        return not (self._ready or self._running or self._paused)
